#!/usr/bin/env bash
# Writes the bill of materials of the program, in CycloneDX's JSON: its crates with their versions,
# licences and hashes, without those that only building or testing needs.
#
#   packaging/sbom.sh FILE
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
prefix=sbom
file=$(realpath -m "$1")
# shellcheck source=packaging/cargo-tools.sh
. "$root/packaging/cargo-tools.sh"
cd "$root"

cargo_tool cargo-cyclonedx 0.5.9 --debug
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
# It writes beside Cargo.toml.
name=evenkeel-sbom
trap 'rm -f "$root/$name.json"' EXIT
PATH=$tools/bin:$PATH cargo cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps \
    --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename "$name"
# Paths and random numbers of this machine make no difference to the contents.
python3 -S - "$name.json" "$root" >"$file" <<'PYTHON'
import json, sys

name, root = sys.argv[1:]
text = open(name, encoding="utf-8").read().replace(f"path+file://{root}", "path+file:///build/evenkeel")
bill = json.loads(text)
bill.pop("serialNumber", None)
json.dump(bill, sys.stdout, indent=2)
print()
PYTHON

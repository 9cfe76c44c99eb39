#!/usr/bin/env bash
# Compiles evenkeel as it ships in this directory and in a copy elsewhere, and compares the bytes.
#
#   tests/reproducible.sh PROFILE
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
profile=$1
cd "$root"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch/elsewhere/target"
git ls-files -z | tar --create --null --files-from=- | tar --extract --directory "$scratch/elsewhere"
# The tools are the same; only evenkeel is compiled twice.
ln -s "$(realpath "$target/tools")" "$scratch/elsewhere/target/tools"
first=$(packaging/compile.sh "$profile")
second=$(env --unset=CARGO_TARGET_DIR "$scratch/elsewhere/packaging/compile.sh" "$profile")
cmp "$first" "$second" || { echo "reproducible: the same source gives other bytes in another directory" >&2; exit 1; }
if strings -n 6 "$first" | grep -F -e "$root/" -e "${HOME:-/root}/.cargo/" | head -n 5 | grep .; then
    echo "reproducible: the binary has paths of this machine" >&2
    exit 1
fi
sha256sum "$first"
echo "reproducible: the same bytes twice"

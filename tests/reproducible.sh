#!/usr/bin/env bash
# Makes a release in this directory and in a copy elsewhere, and compares all its files byte by byte. Checks checksums
# and signature, and that the binary lists its crates and has no path of this machine.
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
fail() { echo "reproducible: $1" >&2; exit 1; }

openssl genpkey -algorithm ed25519 -out "$scratch/key.pem"
openssl pkey -in "$scratch/key.pem" -pubout -out "$scratch/public.pem"
SIGNING_KEY=$scratch/key.pem packaging/release.sh "$profile" "$scratch/first"
# The tools are the same; only evenkeel is compiled twice.
ln -s "$(realpath "$target/tools")" "$scratch/elsewhere/target/tools"
SIGNING_KEY=$scratch/key.pem env --unset=CARGO_TARGET_DIR \
    "$scratch/elsewhere/packaging/release.sh" "$profile" "$scratch/second"
diff --recursive --brief "$scratch/first" "$scratch/second" || fail "the same source gives other bytes in another directory"

cd "$scratch/first"
sha256sum --check --quiet SHA256SUMS
[ "$(wc -l <SHA256SUMS)" -eq 5 ] || fail "a release has five files: $(cut -c67- SHA256SUMS | tr '\n' ' ')"
openssl pkeyutl -verify -rawin -pubin -inkey "$scratch/public.pem" -in SHA256SUMS -sigfile SHA256SUMS.sig >/dev/null ||
    fail "the signature is not that of the key"
binary=$(echo evenkeel-*-linux-*)
objdump --section-headers "$binary" | grep -q ' \.dep-v0 ' || fail "$binary has no list of its crates"
python3 -c 'import json, sys; assert len(json.load(open(sys.argv[1]))["components"]) > 50' ./*.cdx.json ||
    fail "the bill of materials lacks crates"
if strings -n 6 "$binary" | grep -F -e "$root/" -e "${HOME:-/root}/.cargo/" | head -n 5 | grep .; then
    fail "the binary has paths of this machine"
fi
sed 's/^/reproducible: /' SHA256SUMS
echo "reproducible: the same bytes twice, in all files of a release"

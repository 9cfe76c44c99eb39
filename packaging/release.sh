#!/usr/bin/env bash
# Builds everything of a release: the binary, the Debian package, the RPM, the container image, the bill
# of materials (CycloneDX), checksums and, with a key, signatures.
#
#   packaging/release.sh PROFILE FOLDER
#
#   SIGNING_KEY=FILE  signs the checksums: with minisign, where FILE is a secret key of minisign, else with
#                     openssl, where FILE is a private key in PEM, such as one of `openssl genpkey -algorithm ed25519`
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
prefix=release
profile=$1 folder=$(realpath -m "$2")
# shellcheck source=packaging/cargo-tools.sh
. "$root/packaging/cargo-tools.sh"
cd "$root"

if [ -n "${SIGNING_KEY:-}" ]; then
    [ -r "$SIGNING_KEY" ] || die "cannot read the key $SIGNING_KEY"
    SIGNING_KEY=$(realpath "$SIGNING_KEY")
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
binary=$(packaging/compile.sh "$profile")
version=$("$binary" --version | awk '{ print $2; exit }')
name=evenkeel-$version-$(rustc -vV | sed -n 's/^host: //p')
rm -rf "$folder"
mkdir -p "$folder"
install -m 0755 "$binary" "$folder/$name"
strip "$folder/$name"
packaging/build.sh deb "$binary" "$folder"
packaging/build.sh rpm "$binary" "$folder"
packaging/image.sh "$binary" "$folder/evenkeel-$version-image.tar"
packaging/sbom.sh "$folder/evenkeel-$version.cdx.json"

cd "$folder"
sha256sum -- * >SHA256SUMS.new
mv SHA256SUMS.new SHA256SUMS
if [ -n "${SIGNING_KEY:-}" ]; then
    if grep -q '^untrusted comment: ' "$SIGNING_KEY"; then
        command -v minisign >/dev/null || die "minisign is missing: install it (Debian: apt-get install minisign)"
        minisign -S -s "$SIGNING_KEY" -m SHA256SUMS
    else
        openssl pkeyutl -sign -rawin -inkey "$SIGNING_KEY" -in SHA256SUMS -out SHA256SUMS.sig
    fi
else
    say "not signed: set SIGNING_KEY to a file with a private key"
fi
say "$folder"

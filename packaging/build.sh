#!/usr/bin/env bash
# Builds the packages from a binary that is built already.
#
#   packaging/build.sh deb BINARY FOLDER    a Debian package
#   packaging/build.sh rpm BINARY FOLDER    an RPM
#
# cargo-deb and cargo-generate-rpm come from crates.io and are kept under target/tools. They read
# the lists of files from Cargo.toml, which name target/package and target/release/evenkeel.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
kind=$1 binary=$(realpath "$2") folder=$(mkdir -p "$3" && realpath "$3")
stage=$root/target/package

prefix=package
# shellcheck source=packaging/cargo-tools.sh
. "$root/packaging/cargo-tools.sh"

# Everything that the binary says about itself, so that it matches its version.
rm -rf "$stage"
mkdir -p "$stage"/{man,completions,build/release,etc/rules,etc/alerting,examples/rules,examples/alerting}
cp "$binary" "$stage/build/release/evenkeel"
strip "$stage/build/release/evenkeel"
"$binary" man --directory "$stage/man"
"$binary" completions bash >"$stage/completions/evenkeel"
"$binary" completions zsh >"$stage/completions/_evenkeel"
"$binary" completions fish >"$stage/completions/evenkeel.fish"

# Rules are configuration, and their tests are examples.
cd "$root"
for file in rules/*.yml alerting/*.yml; do
    case "$file" in
        *.test.yml) cp "$file" "$stage/examples/$file" ;;
        *) cp "$file" "$stage/etc/$file" ;;
    esac
done

case "$kind" in
    deb)
        cargo_tool cargo-deb 3.8.0
        # Debian has a format of its own for the changelog of the package, which refers to that of evenkeel.
        version=$("$binary" --version | awk '{ print $2; exit }')
        gzip -9n <CHANGELOG.md >"$stage/changelog.gz"
        printf 'evenkeel (%s-1) stable; urgency=medium\n\n  * See changelog.gz beside this file.\n\n -- %s  %s\n' \
            "$version" "evenkeel maintainers <maintainers@evenkeel.invalid>" \
            "$(date -R -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}")" >"$stage/changelog"
        CARGO_TARGET_DIR=$stage/build "$tools/bin/cargo-deb" --no-build --quiet ${PACKAGE_FLAGS:-} --output "$folder"
        ;;
    rpm)
        cargo_tool cargo-generate-rpm 0.21.1
        gzip -9n "$stage"/man/*
        "$tools/bin/cargo-generate-rpm" --target-dir "$stage/build" --auto-req builtin --output "$folder"
        ;;
    *)
        say "unknown kind '$kind'; expected deb or rpm"
        exit 2
        ;;
esac

#!/usr/bin/env bash
# Compiles evenkeel as it ships, and prints the path of the binary: with the list of its crates inside
# (cargo-auditable, which `cargo audit bin` and other scanners read), and without paths and times of
# this machine, so that another directory gives the same bytes.
#
#   packaging/compile.sh PROFILE
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
prefix=compile
profile=$1
# shellcheck source=packaging/cargo-tools.sh
. "$root/packaging/cargo-tools.sh"
cd "$root"

cargo_tool cargo-auditable 0.7.7 --debug
host=$(rustc -vV | sed -n 's/^host: //p')
flags=
cargo_home=${CARGO_HOME:-$HOME/.cargo}
maps=("$target=/build/target" "$root=/build/evenkeel")
# The name of this folder is a hash of the registry's address.
for folder in "$cargo_home"/registry/src/*/; do
    maps+=("${folder%/}=/build/registry")
done
# They are added to the flags of .cargo/config.toml. The last one that matches counts.
for map in "$cargo_home=/build/cargo" "${maps[1]}" "${maps[0]}" "${maps[@]:2}"; do
    flags+=" --remap-path-prefix=$map"
    CFLAGS="${CFLAGS:-} -ffile-prefix-map=$map"
done
export CFLAGS
export "CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$host")_RUSTFLAGS=$flags"
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export CARGO_TARGET_DIR=$target/ship CARGO_INCREMENTAL=0
# `cargo auditable build` would be the wrapper of the workspace only. cargo hashes the path of such a
# wrapper into the names of functions, and then neither the bytes are the same nor the link order fits.
# The variable is what cargo-auditable of this version passes to itself.
export RUSTC_WRAPPER=$tools/bin/cargo-auditable
export CARGO_AUDITABLE_ORIG_ARGS='{"offline": false, "locked": true, "frozen": false, "config": []}'
# lrpar, which generates the PromQL parser, writes a table in the order of a hash map, whose seed is
# random. With the same seed it is the same table. Downloads come before, because TLS needs random numbers.
cargo fetch --locked --target "$host" >&2
mkdir -p "$CARGO_TARGET_DIR"
cc -shared -fPIC -o "$CARGO_TARGET_DIR/same-seed.so" -x c - <<'END'
#include <string.h>
#include <sys/types.h>
ssize_t getrandom(void *buffer, size_t length, unsigned flags) { (void)flags; memset(buffer, 7, length); return length; }
END
LD_PRELOAD=$CARGO_TARGET_DIR/same-seed.so cargo build --locked --offline --profile "$profile" >&2
[ "$profile" != dev ] || profile=debug
binary=$target/ship/$profile/evenkeel
objdump --section-headers "$binary" | grep ' \.dep-v0 ' >/dev/null || die "$binary has no list of its crates"
echo "$binary"

#!/usr/bin/env bash
# Checks the rust-version of Cargo.toml: no dependency needs a later Rust, and evenkeel builds with exactly that one.
# Where cargo is of another version, rustup has to have that toolchain: rustup toolchain install VERSION.
#
#   tests/rust-version.sh --metadata   only what the dependencies say, which needs no other toolchain
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'rust-version: %s\n' "$*" >&2; exit 1; }

declared=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
cargo metadata --locked --format-version 1 | python3 -S -c '
import json, sys

def number(version):
    return [int(part) for part in version.split(".")]

declared = sys.argv[1]
packages = json.load(sys.stdin)["packages"]
later = [package for package in packages if number(package["rust_version"] or "1") > number(declared)]
for package in later:
    print("rust-version: {name} {version} needs Rust {rust_version}, Cargo.toml says {}".format(declared, **package), file=sys.stderr)
sys.exit(bool(later))' "$declared"
if [ "${1:-}" = --metadata ]; then exit; fi

# clippy (incompatible_msrv) reports a newer part of the standard library, and only the compiler a newer syntax.
is_declared() { [[ "$("$@" --version)" == "rustc $declared".* ]]; }
if is_declared rustc; then
    toolchain=()
elif command -v rustup >/dev/null && is_declared rustup run "$declared" rustc 2>/dev/null; then
    toolchain=("+$declared")
else
    die "no Rust $declared is installed; this is $(rustc --version). Run: rustup toolchain install $declared"
fi
cargo "${toolchain[@]}" check --locked --all-targets

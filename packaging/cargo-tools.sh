# shellcheck shell=bash
# Builds tools of cargo from crates.io, once, under target/tools. build.sh and release.sh source this
# file. They set: prefix (of messages) and tools (the directory).

say() { printf '%s: %s\n' "$prefix" "$*" >&2; }
die() { say "$*"; exit 1; }

# Builds a tool of this version. More arguments go to `cargo install`.
cargo_tool() {
    local name=$1 version=$2
    shift 2
    if [ -x "$tools/bin/$name" ] && [ -e "$tools/.$name-$version" ]; then return; fi
    say "building $name $version, once"
    CARGO_TARGET_DIR=$tools/build-$name cargo install --quiet --locked --root "$tools/$name" --version "$version" "$@" "$name"
    rm -rf "$tools/build-$name"
    mkdir -p "$tools/bin"
    ln -sfn "$tools/$name/bin/$name" "$tools/bin/$name"
    touch "$tools/.$name-$version"
}

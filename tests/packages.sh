# shellcheck shell=bash
# Downloads and unpacks Debian packages without installing them. This needs no root, starts no service,
# and does not change the apt state of the machine. Its lists may be empty or stale, so this script
# keeps a private copy.
#
# tools.sh and guest.sh source this file. They set: prefix (of messages), tools (the directory),
# unpacked (the tree for `unpack`).

apt_home=$tools/apt

say() { printf '%s: %s\n' "$prefix" "$*" >&2; }
die() { say "$*"; exit 1; }

# Most network errors are temporary.
with_retries() {
    local attempt
    for attempt in 1 2 3; do
        if "$@"; then return 0; fi
        say "attempt $attempt of 3 failed: $*"
        if [ "$attempt" -lt 3 ]; then sleep $((attempt * 2)); fi
    done
    return 1
}

apt() {
    local command=$1
    shift
    local options=(
        -o Dir::State="$apt_home/state"
        -o Dir::State::Lists="$apt_home/state/lists"
        -o Dir::State::status="$apt_home/state/status"
        -o Dir::Cache="$apt_home/cache"
        -o Debug::NoLocking=true
        -o APT::Update::Error-Mode=any # by default a network failure is only a warning
        -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    )
    # As root, apt downloads as its own user, which may lack access to this directory.
    if [ "$(id -u)" = 0 ]; then options+=(-o APT::Sandbox::User=root); fi
    APT_CONFIG=$apt_home/apt.conf "$command" -qq "${options[@]}" "$@"
}

# Uses the machine's apt settings, such as proxies, but not its hooks, because they refresh caches
# outside of target.
adopt_apt_settings() {
    local setting
    rm -rf "$apt_home/apt.conf.d"
    mkdir -p "$apt_home/apt.conf.d"
    for setting in /etc/apt/apt.conf.d/*; do
        [ -f "$setting" ] || continue
        grep -q 'Invoke' "$setting" || ln -s "$setting" "$apt_home/apt.conf.d/"
    done
    printf 'Dir::Etc::parts "%s";\n' "$apt_home/apt.conf.d" >"$apt_home/apt.conf"
}

lists_are_fresh=no
refresh_lists() {
    if [ "$lists_are_fresh" = yes ]; then return; fi
    command -v apt-get >/dev/null || die "apt-get is missing: run this on Debian${missing:+, or install ${missing[*]}}"
    mkdir -p "$apt_home"/{state/lists/partial,cache/archives/partial,debs}
    : >"$apt_home/state/status"
    adopt_apt_settings
    say "reading the package lists"
    with_retries apt apt-get update || die "apt-get update failed: check the network and /etc/apt/sources.list"
    lists_are_fresh=yes
}

# Fetches one package and unpacks it. The marker is written last, so that an interrupted run starts
# over.
unpack() {
    local package=$1
    local marker=$unpacked/.unpacked-$package
    if [ -e "$marker" ]; then return; fi
    refresh_lists
    say "fetching $package"
    rm -f "$apt_home/debs/${package}"_*.deb
    (cd "$apt_home/debs" && with_retries apt apt-get download "$package") || die "cannot download the Debian package $package"
    mkdir -p "$unpacked"
    dpkg -x "$apt_home/debs/${package}"_*.deb "$unpacked"
    touch "$marker"
}

# Fetches packages with all their dependencies, including the C library, into a directory, as if the
# machine had no packages installed.
fetch_closure() {
    local folder=$1
    shift
    refresh_lists
    mkdir -p "$folder/partial"
    with_retries apt apt-get install --yes --no-install-recommends --download-only -o Dir::Cache::archives="$folder" "$@" >/dev/null ||
        die "cannot download: $*"
}

# Unpacks every package of a directory into one tree with merged /usr, without documentation and
# locales.
unpack_tree() {
    local folder=$1 tree=$2 package directory
    for directory in bin sbin lib lib64; do
        mkdir -p "$tree/usr/$directory"
        ln -sfn "usr/$directory" "$tree/$directory"
    done
    for package in "$folder"/*.deb; do
        # The links above must stay links, which dpkg -x does not guarantee.
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --no-same-owner -C "$tree" \
            --exclude=./usr/share/{doc,icons,info,locale,man,X11} ||
            die "cannot unpack $package"
    done
}

# Fetches one package with its dependencies and unpacks them into a tree. The marker is written last.
unpack_closure() {
    local package=$1 tree=$2
    if [ -e "$tree/.complete" ]; then return; fi
    rm -rf "$tree" "$tree-debs"
    fetch_closure "$tree-debs" "$package"
    unpack_tree "$tree-debs" "$tree"
    rm -r "$tree-debs"
    touch "$tree/.complete"
}

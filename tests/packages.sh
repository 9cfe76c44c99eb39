# shellcheck shell=bash
# Debian packages, downloaded and unpacked, never installed: no root is needed, no service starts, and the machine's own apt state
# is left alone (its lists may be empty or stale, so a private copy is kept here).
#
# Sourced by tools.sh and guest.sh, which set: prefix (of what is said), tools (the folder), unpacked (the tree for `unpack`).

apt_home=$tools/apt

say() { printf '%s: %s\n' "$prefix" "$*" >&2; }
die() { say "$*"; exit 1; }

# Networks fail for a moment more often than for good.
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
        -o APT::Update::Error-Mode=any # otherwise a network that is down is a warning only
        -o Acquire::Languages=none
        -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
    )
    # As root, apt would hand the download to its own user, who may not be able to enter this folder.
    if [ "$(id -u)" = 0 ]; then options+=(-o APT::Sandbox::User=root); fi
    APT_CONFIG=$apt_home/apt.conf "$command" -qq "${options[@]}" "$@"
}

# The machine's proxies and the like hold here too, but not its hooks: those refresh caches outside of target.
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
    with_retries apt apt-get update || die "apt-get update failed: look at the network and at /etc/apt/sources.list"
    lists_are_fresh=yes
}

# Fetches one package and unpacks it; a marker written last makes an interrupted run start over.
unpack() {
    local package=$1
    local marker=$unpacked/.unpacked-$package
    if [ -e "$marker" ]; then return; fi
    refresh_lists
    say "fetching $package"
    rm -f "$apt_home/debs/${package}"_*.deb
    (cd "$apt_home/debs" && with_retries apt apt-get download "$package") || die "Debian package $package cannot be downloaded"
    mkdir -p "$unpacked"
    dpkg -x "$apt_home/debs/${package}"_*.deb "$unpacked"
    touch "$marker"
}

# Fetches packages with all that they depend on, the C library included, into a folder, as if nothing were installed here.
fetch_closure() {
    local folder=$1
    shift
    refresh_lists
    mkdir -p "$folder/partial"
    with_retries apt apt-get install --yes --no-install-recommends --download-only -o Dir::Cache::archives="$folder" "$@" >/dev/null ||
        die "cannot download: $*"
}

# Unpacks every package of a folder into one tree with merged /usr; what only people read is left out.
unpack_tree() {
    local folder=$1 tree=$2 package directory
    for directory in bin sbin lib lib64; do
        mkdir -p "$tree/usr/$directory"
        ln -sfn "usr/$directory" "$tree/$directory"
    done
    for package in "$folder"/*.deb; do
        # The links above must stay links, which dpkg -x does not promise.
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink --no-same-owner -C "$tree" \
            --exclude=./usr/share/{doc,icons,info,locale,man,X11} ||
            die "cannot unpack $package"
    done
}

#!/usr/bin/env bash
# Puts the real servers that the tests talk to under target/tools, and nothing anywhere else.
#
# Debian packages are downloaded and unpacked, never installed: no root is needed, no service starts, and the
# machine's own apt state is left alone (its lists may be empty or stale, so a private copy is kept here).
# What the PATH already offers is used as it is. Afterwards there is one place to look: target/tools/bin.
#
#   tests/tools.sh              what `make test` needs
#   tests/tools.sh webhook process-exporter
#                               what `make bench` compares with as well
#   tests/tools.sh stress-ng    the same and another tool by its name
#   tests/tools.sh grafana-sdk  the Python library that dashboards/build.py uses, and nothing else
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools="${CARGO_TARGET_DIR:-$root/target}/tools"
bin=$tools/bin
unpacked=$tools/root

# tool -> Debian package : path of the program in it
declare -A origin=(
    [prometheus]=prometheus:usr/bin/prometheus
    [promtool]=prometheus:usr/bin/promtool
    [alertmanager]=prometheus-alertmanager:usr/bin/prometheus-alertmanager
    [amtool]=prometheus-alertmanager:usr/bin/amtool
    [node_exporter]=prometheus-node-exporter:usr/bin/prometheus-node-exporter
    [stress-ng]=stress-ng:usr/bin/stress-ng
    [webhook]=webhook:usr/bin/webhook
    [process-exporter]=prometheus-process-exporter:usr/bin/prometheus-process-exporter
    # Not usr/bin/chromium, a script that looks below /usr only.
    [chromium]=chromium:usr/lib/chromium/chromium
)
wanted=(prometheus promtool alertmanager amtool node_exporter chromium "$@")

# What a package needs beside libraries.
declare -A companion=([chromium]=chromium-common)

# Accessibility checks, from npm: the package and the hash of its archive.
axe=axe-core@4.14.1
axe_hash=e6b0ce02b84d892e2e33e403485e7f3d6c29e2be6df65daf44d89ba564139745

prefix=tools
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

link() {
    local tool=$1 target=$2
    rm -f "$bin/$tool"
    ln -s "$target" "$bin/$tool"
}

# For a program that misses libraries on this machine: fetches those its package names, and theirs, and starts it with them.
# libc stays the machine's own; a second one beside its loader would crash.
link_with_libraries() {
    local tool=$1 package=$2 target=$3 library
    local only=(--no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances)
    refresh_lists
    for library in $(apt apt-cache depends --recurse "${only[@]}" "$package" | sed -n 's/^\(lib[^ ]*\)$/\1/p' | sort -u); do
        case $library in libc6 | libc-bin | libcrypt1) continue ;; esac
        dpkg -s "$library" >/dev/null 2>&1 || unpack "$library"
    done
    rm -f "$bin/$tool"
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' \
        "$(find "$unpacked" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)" "$target" >"$bin/$tool"
    chmod +x "$bin/$tool"
}

# Debian's Alertmanager opens its notification templates below /usr/share, where nothing is unpacked. A copy looks below its
# working directory instead (the new path is as long as the old one, as the place in the program asks), and starts in the
# unpacked tree: paths given to it must be absolute.
link_alertmanager() {
    local target=$1 relocated=$unpacked/usr/bin/alertmanager-relocated
    if [ -e /usr/share/prometheus/alertmanager/default.tmpl ]; then
        link alertmanager "$target"
        return
    fi
    LC_ALL=C sed 's|/usr/share/prometheus/alertmanager|usr//share/prometheus/alertmanager|g' "$target" >"$relocated"
    chmod +x "$relocated"
    rm -f "$bin/alertmanager"
    printf '#!/bin/sh\ncd "%s" && exec "%s" "$@"\n' "$unpacked" "$relocated" >"$bin/alertmanager"
    chmod +x "$bin/alertmanager"
}

# A tool that starts and tells its version is one that has all its libraries.
works() { [ -x "$bin/$1" ] && "$bin/$1" --version >/dev/null 2>&1; }

# Grafana's typed builder comes from PyPI: pinned, and checked by its hash. A Debian Python may have no pip of its own.
fetch_grafana_sdk() {
    local requirements=$root/dashboards/requirements.txt folder=$tools/grafana-sdk
    local pip=(python3 -m pip)
    if cmp -s "$requirements" "$folder/.installed"; then return; fi
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        unpack python3-pip-whl
        pip=(python3 "$(echo "$unpacked"/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    rm -rf "$folder"
    with_retries "${pip[@]}" install --quiet --no-deps --require-hashes --disable-pip-version-check \
        --root-user-action=ignore --target "$folder" -r "$requirements" || die "the library in $requirements cannot be fetched"
    cp "$requirements" "$folder/.installed"
}

command -v python3 >/dev/null || die "python3 is missing: install it (Debian: apt-get install python3)"
mkdir -p "$bin"
missing=()
if [ "$*" = grafana-sdk ]; then
    fetch_grafana_sdk
    exit
fi
for tool in "${wanted[@]}"; do
    [ -n "${origin[$tool]:-}" ] || die "no package is known for $tool (known: ${!origin[*]})"
    if works "$tool"; then continue; fi
    if on_path=$(type -P "$tool") && [ "$on_path" != "$bin/$tool" ]; then
        link "$tool" "$on_path"
        works "$tool" && continue
    fi
    missing+=("$tool")
done

for tool in "${missing[@]}"; do
    package=${origin[$tool]%%:*}
    # The marker may be there while the files are not (a half-cleaned target).
    [ -x "$unpacked/${origin[$tool]#*:}" ] || rm -f "$unpacked/.unpacked-$package"
    unpack "$package"
    if [ -n "${companion[$tool]:-}" ]; then unpack "${companion[$tool]}"; fi
    case $tool in
        alertmanager) link_alertmanager "$unpacked/${origin[$tool]#*:}" ;;
        *) link "$tool" "$unpacked/${origin[$tool]#*:}" ;;
    esac
    works "$tool" || link_with_libraries "$tool" "$package" "$unpacked/${origin[$tool]#*:}"
    works "$tool" || die "$tool of the package $package does not run: $("$bin/$tool" --version 2>&1 | head -n 3)"
done

# The strict OpenMetrics parser is a Python library; Debian's package of it needs one more and Python.
# -S leaves out what else this machine's Python has, so that what works here works elsewhere.
python_works() { PYTHONPATH="$tools/python" python3 -S -c 'import prometheus_client.openmetrics.parser' 2>&1; }

if ! python_works >/dev/null; then
    missing+=(prometheus_client)
    rm -rf "$unpacked"/.unpacked-python3-* "$tools/python"
    unpack python3-prometheus-client
    unpack python3-decorator
    mkdir -p "$tools/python"
    ln -s "$unpacked/usr/lib/python3/dist-packages/"{prometheus_client,decorator.py} "$tools/python/"
    fault=$(python_works) || die "python3 cannot load prometheus_client from $tools/python: $fault"
fi

fetch_axe() {
    local folder=$tools/axe-core archive=$tools/${axe/@/-}.tgz
    if [ "$(cat "$folder/.unpacked" 2>/dev/null)" = "$axe" ]; then return; fi
    command -v npm >/dev/null || die "npm is missing: install it (Debian: apt-get install npm)"
    say "fetching $axe"
    missing+=("$axe")
    (cd "$tools" && with_retries npm pack --silent "$axe" >/dev/null) || die "$axe cannot be fetched"
    echo "$axe_hash  $archive" | sha256sum --check --quiet || die "$archive is not what was expected"
    rm -rf "$folder"
    mkdir "$folder"
    tar -xzf "$archive" -C "$folder" --strip-components=1 package/axe.min.js package/LICENSE
    rm "$archive"
    echo "$axe" >"$folder/.unpacked"
}
fetch_axe

if [ ${#missing[@]} -gt 0 ]; then say "ready: $bin"; fi

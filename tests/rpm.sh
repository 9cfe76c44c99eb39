#!/usr/bin/env bash
# Tests the RPM with Debian's rpm, which it unpacks under target/tools: the list of files and configuration
# files, the scriptlets, and an installation into a directory. It changes nothing on this machine.
#
#   tests/rpm.sh BINARY    builds the package from this binary first
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
prefix=rpm
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

tree=$tools/rpm
unpack_closure rpm "$tree"
libraries=$(find "$tree/usr/lib" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
export RPM_CONFIGDIR=$tree/usr/lib/rpm
rpm() { "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$tree/usr/bin/rpm" "$@"; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$root/packaging/build.sh" rpm "$1" "$scratch/out"
package=$(echo "$scratch"/out/*.rpm)

has() { grep -qxF "$2" <<<"$1" || die "missing in $3: $2"; }

files=$(rpm -qpl "$package")
for file in /usr/bin/evenkeel /usr/lib/evenkeel/maintain /usr/lib/systemd/system/evenkeel{.service,.socket,-webhook.socket} \
    /usr/lib/sysusers.d/evenkeel.conf /usr/lib/tmpfiles.d/evenkeel.conf /usr/share/man/man1/evenkeel-run.1.gz \
    /usr/share/bash-completion/completions/evenkeel /usr/share/zsh/site-functions/_evenkeel \
    /usr/share/fish/vendor_completions.d/evenkeel.fish /usr/share/doc/evenkeel/examples/drop-ins/cgroup-rules.conf; do
    has "$files" "$file" "the files"
done
config=$(rpm -qp --configfiles "$package")
for file in evenkeel.yml rules/free-memory.yml alerting/host.rules.yml; do
    has "$config" "/etc/evenkeel/$file" "the configuration files"
done
if grep -q '\.test\.yml' <<<"$config"; then die "tests of rules are among the configuration files"; fi
scripts=$(rpm -qp --scripts "$package")
for step in installed restore; do
    grep -q "/usr/lib/evenkeel/maintain $step" <<<"$scripts" || die "no scriptlet runs 'maintain $step'"
done

mkdir "$scratch/root"
# Without scriptlets and dependencies, because the directory has neither a shell nor systemd.
rpm --root "$scratch/root" --nodeps --noscripts -i "$package"
rpm --root "$scratch/root" -V --nodeps evenkeel || die "files differ from the package"
"$scratch/root/usr/bin/evenkeel" check --config.file="$scratch/root/etc/evenkeel/evenkeel.yml" >/dev/null || die "the configuration has errors"
rpm --root "$scratch/root" --noscripts -e evenkeel
left=$(find "$scratch/root" -path '*evenkeel*' ! -type d)
[ -z "$left" ] || die "left after the removal: $left"
say "the package is complete"

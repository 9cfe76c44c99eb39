#!/usr/bin/env bash
# Checks a Debian package with lintian, which it unpacks under target/tools. Any tag but a note fails.
#
#   tests/lintian.sh PACKAGE
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
prefix=lintian
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

tree=$tools/lintian
unpack_closure lintian "$tree"
# The machine's perl with the modules of the tree; both are of one release of Debian.
modules=("$tree/usr/share/perl5" "$tree"/usr/lib/*/perl5/5.* "$tree"/usr/share/perl/5.* "$tree"/usr/lib/*/perl/5.* "$tree"/usr/lib/*/perl-base)
PERL5LIB=$(IFS=:; echo "${modules[*]}")
export PERL5LIB
export PATH=$tree/usr/bin:$PATH LINTIAN_BASE=$tree/usr/share/lintian
"$tree/usr/bin/lintian" --no-cfg --allow-root --fail-on error,warning "$1"
say "no tags"

#!/usr/bin/env bash
# Builds a container image from a binary that is built already: an OCI layout in a tar file, which
# podman, skopeo and `ctr image import` read.
#
#   packaging/image.sh BINARY ARCHIVE
#
# The root file system has the binary, its configuration, the C library, time zones and certificates,
# from Debian packages of this machine's release, and no shell. buildah comes from its Debian package.
# The same binary and packages give the same bytes. As another user than root, buildah needs the ranges
# of that user in /etc/subuid.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
prefix=image
binary=$(realpath "$1") archive=$(realpath -m "$2")
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"
cd "$root"
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
packages=(base-files ca-certificates libc6 libgcc-s1 tzdata)
work=$target/image
tree=$work/root

"$root/tests/tools.sh" buildah
if [ "$(cat "$work/debs/.complete" 2>/dev/null)" != "${packages[*]}" ]; then
    rm -rf "$work/debs"
    mkdir -p "$work/debs"
    refresh_lists
    say "fetching ${packages[*]}"
    (cd "$work/debs" && with_retries apt apt-get download "${packages[@]}") || die "cannot download ${packages[*]}"
    echo "${packages[*]}" >"$work/debs/.complete"
fi

rm -rf "$tree" "$work"/{storage,run,layout}
mkdir -p "$tree"
unpack_tree "$work/debs" "$tree"
# Scanners read the list of packages there, one file for each.
mkdir -p "$tree/var/lib/dpkg/status.d"
for deb in "$work"/debs/*.deb; do
    package=$(dpkg-deb --field "$deb" Package)
    dpkg-deb --field "$deb" >"$tree/var/lib/dpkg/status.d/$package"
    dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$tree" --no-same-owner "./usr/share/doc/$package/copyright" 2>/dev/null || true
done
find "$tree/usr/share/ca-certificates" -name '*.crt' | LC_ALL=C sort | xargs cat >"$tree/etc/ssl/certs/ca-certificates.crt"
rm -rf "$tree"/usr/sbin/* "$tree"/usr/bin/* "$tree"/usr/lib/*/gconv "$tree"/usr/share/{ca-certificates,lintian,bug} \
    "$tree"/usr/share/zoneinfo/{posix,right} "$tree"/etc/{ca-certificates,kernel,update-motd.d} "$tree"/{boot,home,media,mnt,opt,srv,root}
cp packaging/image/{passwd,group} "$tree/etc/"
mkdir -p "$tree"/{proc,sys,dev,run,host,etc/evenkeel/rules,etc/evenkeel/alerting,var/lib/evenkeel,usr/share/doc/evenkeel}
chmod 0700 "$tree/var/lib/evenkeel"
chmod 1777 "$tree/tmp"
install -m 0755 "$binary" "$tree/usr/bin/evenkeel"
strip "$tree/usr/bin/evenkeel"
install -m 0644 evenkeel.yml "$tree/etc/evenkeel/"
for file in rules/*.yml alerting/*.yml; do
    case "$file" in
        *.test.yml) ;;
        *) install -m 0644 "$file" "$tree/etc/evenkeel/$file" ;;
    esac
done
install -m 0644 LICENSE "$tree/usr/share/doc/evenkeel/"

buildah() { "$tools/bin/buildah" --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
cat >"$work/policy.json" <<<'{"default": [{"type": "insecureAcceptAnything"}]}'
version=$("$binary" --version | awk '{ print $2; exit }')
container=$(buildah from --signature-policy "$work/policy.json" scratch)
buildah copy --quiet "$container" "$tree" / >/dev/null
buildah config --entrypoint '["/usr/bin/evenkeel"]' --cmd 'run --path.rootfs=/host' --port 19797 --volume /var/lib/evenkeel \
    --label "org.opencontainers.image.title=evenkeel" --label "org.opencontainers.image.version=$version" \
    --label "org.opencontainers.image.licenses=Apache-2.0" "$container"
buildah commit --quiet --rm --disable-compression=false --format oci --timestamp "$epoch" --signature-policy "$work/policy.json" \
    "$container" "oci:$work/layout:evenkeel:$version" >/dev/null
mkdir -p "$(dirname "$archive")"
tar --create --file "$archive" --directory "$work/layout" --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner .
rm -rf "$work"/{storage,run,layout}
say "$archive"

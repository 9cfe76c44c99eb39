#!/usr/bin/env bash
# Tests evenkeel with a real systemd and all of cgroup v2, in a small virtual machine under QEMU.
#
# The guest consists of Debian's kernel, systemd and D-Bus, unpacked from their packages into one
# initramfs. The script needs no root and no disk image, and installs nothing on this machine. It
# keeps downloaded and unpacked files in target/guest; remove that directory to start over. The
# tests are the Rust binary of tests/guest, which tests/guest/root runs in the guest.
#
#   tests/guest.sh           build the missing parts, boot, run every test, power off
#   tests/guest.sh FILTER    only the tests with this text in their names
#   tests/guest.sh --bench [RUNS] [evenkeel]   benches/hog.rs instead, with Debian's earlyoom or without it
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
home=$target/guest
prefix=guest
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

# usr-is-merged replaces a converter that depends on Perl.
guest_packages=(bash coreutils dash dbus diffutils dpkg findutils grep kmod libc-bin mount passwd procps sed systemd systemd-sysv tar usr-is-merged util-linux)
# Ansible runs in the guest, which has no network.
guest_packages+=(ansible-core apt gzip python3-apt)
# In the order of their dependencies. The guest needs disks for swap and I/O limits, and a button
# for powering off.
modules=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk button)
# Limits a guest that hangs. On a machine with other load, all tests take a quarter of an hour.
patience=2400
bench=no
if [ "${1:-}" = --bench ]; then
    # Forty runs, each with a start, a memory hog and an exit.
    bench=yes
    shift
fi

[ "$(uname -m)" = x86_64 ] || die "the guest needs an x86_64 machine; this one is $(uname -m)"
for need in cargo python3 dpkg-deb tar objcopy timeout; do
    command -v "$need" >/dev/null || die "$need is missing"
done

# QEMU runs with its own libraries and loader, so that it does not depend on those of this machine.
find_qemu() {
    local tree=$home/qemu
    if command -v qemu-system-x86_64 >/dev/null; then
        qemu=(qemu-system-x86_64)
        return
    fi
    if [ ! -e "$tree/.complete" ]; then
        say "fetching QEMU"
        rm -rf "$tree" "$home/debs/qemu"
        fetch_closure "$home/debs/qemu" qemu-system-x86
        unpack_tree "$home/debs/qemu" "$tree"
        rm -r "$home/debs/qemu"
        touch "$tree/.complete"
    fi
    local libraries
    libraries=$(find "$tree/usr/lib" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd:)
    export QEMU_MODULE_DIR=$tree/usr/lib/x86_64-linux-gnu/qemu
    qemu=("$tree/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$tree/usr/bin/qemu-system-x86_64" -L "$tree/usr/share/qemu" -L "$tree/usr/share/seabios")
}

# Builds the kernel and the parts of the guest that do not change between runs.
build_base() {
    local recipe="2 ${guest_packages[*]} ${modules[*]}"
    if [ -e "$home/base.recipe" ] && [ "$recipe" = "$(cat "$home/base.recipe")" ]; then return; fi
    say "building the base of the guest"
    local tree=$home/base
    rm -rf "$tree" "$home/kernel" "$home/debs/"{base,kernel} "$home/base.recipe"
    mkdir -p "$home/debs/kernel"
    fetch_closure "$home/debs/base" "${guest_packages[@]}"
    local kernel
    kernel=$(apt apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p')
    (cd "$home/debs/kernel" && with_retries apt apt-get download "$kernel") || die "cannot download $kernel"
    unpack_tree "$home/debs/base" "$tree"
    note_packages "$home/debs/base" "$tree/var/lib/dpkg"
    unpack_tree "$home/debs/kernel" "$home/kernel"
    mkdir -p "$tree"/{dev,proc,sys,run,tmp,root} "$tree/usr/lib/evenkeel-guest/modules"
    local index=10 module
    for module in "${modules[@]}"; do
        # Numbered, because the guest loads them in the order of a shell glob.
        cp "$(find "$home/kernel/usr/lib/modules" -name "$module.ko" | grep .)" "$tree/usr/lib/evenkeel-guest/modules/$index-$module.ko" ||
            die "the kernel has no module $module"
        index=$((index + 1))
    done
    mv "$home"/kernel/boot/vmlinuz-* "$home/vmlinuz"
    python3 "$root/tests/guest/pack.py" "$tree" >"$home/base.cpio"
    rm -r "$tree" "$home/kernel" "$home/debs"
    printf '%s' "$recipe" >"$home/base.recipe"
}

# Lets dpkg know the packages, which were unpacked without it, so that it finds the dependencies of others.
note_packages() {
    local folder=$1 database=$2 package list
    mkdir -p "$database"/{info,updates,triggers,parts}
    for package in "$folder"/*.deb; do
        dpkg-deb --field "$package" | sed '/^Package:/a Status: install ok installed'
        echo
        list=$(dpkg-deb --show --showformat='${Package}' "$package")
        if [ "$(dpkg-deb --field "$package" Multi-Arch)" = same ]; then list=$list:amd64; fi
        : >"$database/info/$list.list"
    done >"$database/status"
    touch "$database/available"
}

# Prints the path of an executable that cargo builds, by its name.
built() {
    printf '%s\n' "$messages" | python3 -c '
import json, sys
paths = [m["executable"] for m in map(json.loads, sys.stdin) if m.get("executable") and m["target"]["name"] == sys.argv[1]]
print(paths[-1])' "$1"
}

put() {
    mkdir -p "$home/overlay$(dirname "$2")"
    objcopy --strip-debug "$1" "$home/overlay$2"
}

# Adds the binaries of this tree. Tests use the path at which evenkeel was built, so the guest links
# that path. The file cannot be there directly, because the guest mounts file systems over /tmp and
# similar directories.
tree=/usr/lib/evenkeel-guest/tree
build_overlay() {
    local messages tests evenkeel
    rm -rf "$home/overlay"
    mkdir -p "$home/overlay/usr/bin"
    cp -r "$root/tests/guest/root/." "$home/overlay"
    if [ "$bench" = yes ]; then
        messages=$(cd "$root" && cargo bench --locked --profile dist --bench hog --no-run --message-format=json)
        tests=$(built hog) evenkeel=$(built evenkeel)
        unpacked=$home/peers
        unpack earlyoom
        cp "$unpacked/usr/bin/earlyoom" "$home/overlay/usr/bin/earlyoom"
        printf 'export EVENKEEL_MAY_EXHAUST_MEMORY=yes EVENKEEL=%q\n' "$evenkeel" >"$home/overlay/usr/lib/evenkeel-guest/environment"
    else
        messages=$(cd "$root" && cargo test --locked --test guest --no-run --message-format=json)
        tests=$(built guest) evenkeel=$(built evenkeel)
        : >"$home/overlay/usr/lib/evenkeel-guest/environment"
    fi
    put "$evenkeel" "$tree$evenkeel"
    put "$tests" /usr/lib/evenkeel-guest/tests
    if [ "$bench" = no ]; then
        # The debug build, because building the one that ships takes minutes; two versions, for an upgrade.
        local version
        PACKAGE_FLAGS=--fast "$root/packaging/build.sh" deb "$evenkeel" "$home/package"
        cp "$home"/package/evenkeel_*.deb "$home/overlay/usr/lib/evenkeel-guest/evenkeel.deb"
        version=$(dpkg-deb --field "$home/overlay/usr/lib/evenkeel-guest/evenkeel.deb" Version)
        dpkg-deb --raw-extract "$home/overlay/usr/lib/evenkeel-guest/evenkeel.deb" "$home/package/next"
        sed -i "s/^Version: .*/Version: $version.next/" "$home/package/next/DEBIAN/control"
        dpkg-deb --root-owner-group --build -Zgzip -z1 "$home/package/next" "$home/overlay/usr/lib/evenkeel-guest/next.deb" >/dev/null
        rm -r "$home/package"
    fi
    printf '%s\n' "$@" >"$home/overlay/usr/lib/evenkeel-guest/arguments"
    mkdir -p "$home/overlay$tree$root"
    cp -r "$root/rules" "$home/overlay$tree$root/rules"
    cp -r "$root/packaging/ansible" "$home/overlay/usr/lib/evenkeel-guest/ansible"
    python3 "$root/tests/guest/pack.py" "$home/overlay" >"$home/overlay.cpio"
}

mkdir -p "$home"
find_qemu
build_base
build_overlay "$@"

# The kernel reads concatenated archives as one.
cat "$home/base.cpio" "$home/overlay.cpio" >"$home/initramfs"
truncate -s 1G "$home/disk"
# For tests of limits on two devices, and for the files that a reboot keeps.
truncate -s 256M "$home/second-disk"
dd if=/dev/zero of="$home/second-disk" bs=4K count=1 conv=notrunc status=none

# Emulation even if KVM is available, because KVM hangs in nested virtual machines.
boot() {
    timeout "$patience" "${qemu[@]}" -accel tcg,thread=multi -m 1100 -smp 2 -nodefaults -display none -no-reboot -net none \
        -kernel "$home/vmlinuz" -initrd "$home/initramfs" \
        -append "console=ttyS0 rdinit=/lib/systemd/systemd systemd.unified_cgroup_hierarchy=1 psi=1 panic=-1 quiet" \
        -drive "file=$home/disk,format=raw,if=virtio" -drive "file=$home/second-disk,format=raw,if=virtio" -serial "file:$home/console.log" -serial stdio </dev/null |
        sed -u 's/\r$//' | tee "$home/results.log" || say "QEMU failed or exceeded $patience s"
}

say "booting (the console is in $home/console.log)"
started=$SECONDS
boot
if grep -qxF "guest: reboots" "$home/results.log"; then
    # QEMU ends at a reset, so that a guest that crashes does not start over.
    say "booting again"
    boot
fi
if [ "$(tail -n 1 "$home/results.log")" != "guest: all passed" ]; then
    say "failed after $((SECONDS - started)) s; the end of the guest's console:"
    tail -n 30 "$home/console.log" >&2
    exit 1
fi
say "all passed in $((SECONDS - started)) s"

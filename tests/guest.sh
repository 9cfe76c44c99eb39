#!/usr/bin/env bash
# Tries evenkeel where it has a real systemd and all of cgroup v2: in a small machine of its own, emulated by QEMU.
#
# The guest is Debian's kernel, systemd and D-Bus, unpacked from their packages into one initramfs: no root is needed, no disk
# image, and nothing is installed on this machine. What was fetched and unpacked is kept under target/guest; `rm -r` it to start
# over. The tests are the Rust binary of tests/guest, run there by tests/guest/root.
#
#   tests/guest.sh           build what is missing, boot, run every test, power off
#   tests/guest.sh FILTER    only the tests with this text in their names
#   tests/guest.sh --bench [RUNS] [evenkeel]   benches/hog.rs instead, beside Debian's earlyoom or alone
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
tools=$target/tools
home=$target/guest
prefix=guest
# shellcheck source=tests/packages.sh
. "$root/tests/packages.sh"

# usr-is-merged takes the place of a converter that would bring Perl along.
guest_packages=(bash coreutils dash dbus kmod libc-bin mount procps systemd systemd-sysv usr-is-merged util-linux)
# In the order in which they need each other. A disk is there for swap and for I/O limits, a button to be powered off by.
modules=(virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk button)
# A guest that hangs must not hang CI; on a machine that is busy with other things all tests take ten minutes.
patience=1500
bench=no
if [ "${1:-}" = --bench ]; then
    # Forty runs, each with a start, a hog and an end.
    bench=yes
    shift
fi

[ "$(uname -m)" = x86_64 ] || die "the guest is an x86_64 machine; on $(uname -m) this is not prepared"
for need in cargo python3 dpkg-deb tar objcopy timeout; do
    command -v "$need" >/dev/null || die "$need is missing"
done

# qemu runs with its own libraries through its own loader, so that this machine's need not fit.
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

# The kernel and all of the guest that does not change from run to run.
build_base() {
    local recipe="${guest_packages[*]} ${modules[*]}"
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
    unpack_tree "$home/debs/kernel" "$home/kernel"
    mkdir -p "$tree"/{dev,proc,sys,run,tmp,root} "$tree/usr/lib/evenkeel-guest/modules"
    local index=10 module
    for module in "${modules[@]}"; do
        # Numbered, for the guest loads them as a shell glob lists them.
        cp "$(find "$home/kernel/usr/lib/modules" -name "$module.ko" | grep .)" "$tree/usr/lib/evenkeel-guest/modules/$index-$module.ko" ||
            die "the kernel has no module $module"
        index=$((index + 1))
    done
    mv "$home"/kernel/boot/vmlinuz-* "$home/vmlinuz"
    python3 "$root/tests/guest/pack.py" "$tree" >"$home/base.cpio"
    rm -r "$tree" "$home/kernel" "$home/debs"
    printf '%s' "$recipe" >"$home/base.recipe"
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

# What is tried: the binaries of this tree. Tests name evenkeel by the path it was built to, so the guest links that; it cannot
# simply lie there, because the guest mounts file systems of its own over /tmp and the like.
tree=/usr/lib/evenkeel-guest/tree
build_overlay() {
    local messages tests evenkeel
    rm -rf "$home/overlay"
    mkdir -p "$home/overlay/usr/bin"
    cp -r "$root/tests/guest/root/." "$home/overlay"
    if [ "$bench" = yes ]; then
        messages=$(cd "$root" && cargo bench --locked --bench hog --no-run --message-format=json)
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
    printf '%s\n' "$@" >"$home/overlay/usr/lib/evenkeel-guest/arguments"
    mkdir -p "$home/overlay$tree$root"
    cp -r "$root/rules" "$home/overlay$tree$root/rules"
    python3 "$root/tests/guest/pack.py" "$home/overlay" >"$home/overlay.cpio"
}

mkdir -p "$home"
find_qemu
build_base
build_overlay "$@"

# The kernel reads archives that follow each other as one.
cat "$home/base.cpio" "$home/overlay.cpio" >"$home/initramfs"
truncate -s 1G "$home/disk"
# For limits of two devices.
truncate -s 64M "$home/second-disk"
say "booting (the console is in $home/console.log)"
started=$SECONDS
# Emulated even where KVM is offered: in nested machines it hangs.
timeout "$patience" "${qemu[@]}" -accel tcg,thread=multi -m 1024 -smp 2 -nodefaults -display none -no-reboot -net none \
    -kernel "$home/vmlinuz" -initrd "$home/initramfs" \
    -append "console=ttyS0 rdinit=/lib/systemd/systemd systemd.unified_cgroup_hierarchy=1 psi=1 panic=-1 quiet" \
    -drive "file=$home/disk,format=raw,if=virtio" -drive "file=$home/second-disk,format=raw,if=virtio" -serial "file:$home/console.log" -serial stdio </dev/null |
    sed -u 's/\r$//' | tee "$home/results.log" || say "QEMU ended with an error, or after $patience s"
if [ "$(tail -n 1 "$home/results.log")" != "guest: all passed" ]; then
    say "failed after $((SECONDS - started)) s; the end of the guest's console:"
    tail -n 30 "$home/console.log" >&2
    exit 1
fi
say "all passed in $((SECONDS - started)) s"

#!/usr/bin/env bash
# Tests a container image, as root: its contents, and evenkeel in a container like that of packaging/kubernetes
# (mount, IPC and cgroup namespaces of its own, the host's processes and network, /host read-only, six
# capabilities), where evenkeel changes a process of the host and reverts the change.
#
#   tests/image.sh ARCHIVE
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
die() { printf 'image: %s\n' "$*" >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "run this as root: it makes namespaces and lowers nice values again"

scratch=$(mktemp -d)
started=()
clean() {
    [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$scratch"
}
trap clean EXIT

mkdir "$scratch"/{layout,root,storage,config}
tar -xf "$1" -C "$scratch/layout"
python3 -S - "$scratch/layout" "$scratch/root" <<'PYTHON'
import json, os, subprocess, sys

layout, root = sys.argv[1:]


def blob(descriptor):
    return os.path.join(layout, "blobs", *descriptor["digest"].split(":"))


index = json.load(open(os.path.join(layout, "index.json")))
manifest = json.load(open(blob(index["manifests"][0])))
config = json.load(open(blob(manifest["config"])))["config"]
assert config["Entrypoint"] == ["/usr/bin/evenkeel"], config
assert config["Cmd"] == ["run", "--path.rootfs=/host"], config
assert list(config["ExposedPorts"]) == ["19797"] or list(config["ExposedPorts"]) == ["19797/tcp"], config
for layer in manifest["layers"]:
    subprocess.run(["tar", "-xf", blob(layer), "-C", root], check=True)
PYTHON
cd "$scratch/root"
[ "$(ls usr/bin)" = evenkeel ] || die "/usr/bin has other programs: $(ls usr/bin)"
found=$(find . -name '*sh' -path '*bin/*' -o -perm /6000 -type f)
[ -z "$found" ] || die "a shell or a setuid file: $found"
foreign=$(find . ! -uid 0)
[ -z "$foreign" ] || die "files of other users than root: $foreign"
chroot . /usr/bin/evenkeel check --config.file=/etc/evenkeel/evenkeel.yml >/dev/null || die "the configuration has errors"

# The manifest names this image, and its configuration is valid where the manifest mounts it.
manifest=$root/packaging/kubernetes/evenkeel.yml
version=$(chroot . /usr/bin/evenkeel --version | awk '{ print $2; exit }')
grep -q "image: evenkeel:$version\$" "$manifest" || die "$manifest names another image than evenkeel:$version"
"$root/tests/tools.sh" kubernetes-validate
"$tools/bin/kubernetes-validate" --strict --quiet "$manifest" || die "$manifest does not match the schemas of Kubernetes"
PYTHONPATH=$tools/kubernetes-validate python3 - "$manifest" config <<'PYTHON'
import os, sys, yaml

manifest, folder = sys.argv[1:]
os.mkdir(folder)
(config,) = [document for document in yaml.safe_load_all(open(manifest)) if document["kind"] == "ConfigMap"]
for name, text in config["data"].items():
    open(os.path.join(folder, name), "w").write(text)
PYTHON
chroot . /usr/bin/evenkeel check --config.file=/config/evenkeel.yml >/dev/null || die "the configuration in $manifest has errors"
rm -r config

# A process of the host, which a rule re-nices.
nice -n 2 sleep 7305 &
target=$!
started+=("$target")
printf 'rules:\n  - name: test\n    matchers: [alertname=Test]\n    select: {cmdline: "sleep 7305"}\n    actions: [{nice: 9}]\n' >"$scratch/config/rules.yml"
printf 'mode: enforce\nrule_files: [rules.yml]\nwebhook: {token_file: token}\n' >"$scratch/config/evenkeel.yml"
(umask 077; echo image-test-token >"$scratch/config/token")
read -r metrics webhook < <(python3 -S -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets))')
mkdir config
cat >"$scratch/start" <<'SCRIPT'
set -e
mount --make-rslave /
mount --bind . . && cd .
mount --rbind / host && mount --make-rslave host && mount -o remount,bind,ro host
mount --rbind /proc proc && mount --rbind /sys sys && mount -o remount,bind,ro sys
for device in null urandom; do touch dev/$device && mount --bind /dev/$device dev/$device; done
for file in passwd group; do mount --bind -o ro /etc/$file etc/$file; done
mount --bind "$1/config" config && mount -o remount,bind,ro config
mount --bind "$1/storage" var/lib/evenkeel
mount -o remount,bind,ro .
exec setpriv --bounding-set=-all,+sys_nice,+kill,+sys_resource,+sys_ptrace,+dac_read_search,+dac_override,+sys_chroot \
    --inh-caps=-all --no-new-privs chroot . /usr/bin/evenkeel run --config.file=/config/evenkeel.yml \
    --storage.path=/var/lib/evenkeel --path.rootfs=/host --web.listen-address="$2" --webhook.listen-address="$3"
SCRIPT
unshare --mount --ipc --cgroup bash "$scratch/start" "$scratch" "$metrics" "$webhook" 2>"$scratch/log" &
daemon=$!
started+=("$daemon")
wait_for() {
    local what=$1 attempt
    shift
    for attempt in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.2
    done
    die "$what did not happen: $(tail -n 20 "$scratch/log")"
}
has_nice() { [ "$(ps -o ni= -p "$target" | tr -d ' ')" = "$1" ]; }
alert() {
    curl --silent --fail --header 'Content-Type: application/json' --header 'Authorization: Bearer image-test-token' --data "{\"version\": \"4\", \"alerts\": [{
        \"status\": \"$1\", \"startsAt\": \"2026-01-02T03:04:05Z\", \"endsAt\": \"$2\", \"fingerprint\": \"0123456789abcdef\",
        \"labels\": {\"alertname\": \"Test\", \"instance\": \"$(uname -n)\"}}]}" "http://$webhook/webhook" >/dev/null
}
wait_for "the start" curl --silent --fail "http://$metrics/-/ready"
size=$(df --block-size=1 --output=size / | tail -n 1 | tr -d ' ')
curl --silent "http://$metrics/metrics" >"$scratch/metrics"
python3 -S - "$scratch/metrics" "$size" <<'PYTHON' || die "the metrics are not those of the host"
import re, sys

text = open(sys.argv[1]).read()
(found,) = re.findall(r'^node_filesystem_size_bytes\{[^}]*mountpoint="/"[^}]*\} (\S+)$', text, re.MULTILINE)
assert float(found) == float(sys.argv[2]), (found, sys.argv[2])
assert "node_procs_running" in text and "node_network_receive_bytes_total" in text
PYTHON
alert firing 0001-01-01T00:00:00Z || die "the alert was refused: $(tail -n 5 "$scratch/log")"
wait_for "the step" has_nice 9
alert resolved 2026-01-02T04:04:05Z
wait_for "the revert" has_nice 2
grep -q 'msg=sandbox' "$scratch/log" || die "no line about the sandbox"
grep 'msg=sandbox' "$scratch/log" | cut -c1-400
kill "$daemon"
wait "$daemon" || die "the daemon failed: $(tail -n 5 "$scratch/log")"
echo "image: complete"

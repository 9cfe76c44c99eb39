#!/usr/bin/env bash
# Compares evenkeel with the output that node_exporter's own end-to-end test expects:
#   tests/golden.sh DIR
# DIR is a checkout of node_exporter 1.12.1, which the caller has and which stays as it is. The script copies its files
# of a host to a temporary directory, starts evenkeel on them with the flags of that test, and compares name, labels,
# type and value of each series. docs/compatibility.md lists the series that may differ.
set -euo pipefail
umask 022

checkout=$(cd "${1:?usage: tests/golden.sh DIR}" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
evenkeel=${EVENKEEL:-${CARGO_TARGET_DIR:-$root/target}/debug/evenkeel}
[[ -x $evenkeel ]] || { echo "golden: $evenkeel is missing: run \`cargo build\`" >&2; exit 1; }

home=$(mktemp -d)
pid=
clean_up() {
    [[ -z $pid ]] || { kill "$pid" && wait "$pid"; } 2>/dev/null || true
    rm -rf "$home"
}
trap clean_up EXIT

python3 "$root/tests/golden.py" unpack "$checkout" "$home"
# Collectors that a timer reads are read often.
echo 'sampling: {slow_interval: 1s}' >"$home/evenkeel.yml"
mapfile -t flags < <(python3 "$root/tests/golden.py" flags "$checkout")
cd "$home"
touch log
"$evenkeel" run --config.file=evenkeel.yml --storage.path="$home/storage" \
    --web.listen-address=127.0.0.1:0 --webhook.listen-address=127.0.0.1:0 \
    --path.rootfs=collector/fixtures --path.procfs=collector/fixtures/proc --path.sysfs=collector/fixtures/sys \
    --path.udev.data=collector/fixtures/udev/data "${flags[@]}" 2>"$home/log" &
pid=$!

address=
for _ in {1..300}; do
    address=$(sed -n '/listener=metrics/s/.*addr=\([^ ]*\).*/\1/p' "$home/log" | head -n 1)
    [[ -z $address ]] || break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
done
[[ -n $address ]] || { cat "$home/log" >&2; echo "golden: evenkeel did not start" >&2; exit 1; }
# The first scrape reads what is read for scrapes only.
for _ in 1 2 3; do
    curl -sf -H 'Accept: text/plain;version=0.0.4' "http://$address/metrics" >"$home/metrics"
    sleep 1
done
python3 "$root/tests/golden.py" compare "$checkout" "$home/metrics" "$root/docs/compatibility.md"

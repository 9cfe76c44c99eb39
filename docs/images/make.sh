#!/usr/bin/env bash
# Creates the pictures of the README from a real run. Two jobs saturate the processors, the shipped
# alerting rule fires, and the shipped rule acts. The script takes a screenshot of the status page
# in a browser, renders the output of `explain` as SVG, and records `make demo` as an animated SVG. It
# takes eight minutes and needs root.
#
# Everything runs in separate namespaces. The host name is web1 there, and every process ends with
# the script.
set -euo pipefail
# evenkeel refuses files that others can write.
umask 022

root=$(cd "$(dirname "$0")/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
if [ "${1:-}" != inside ]; then
    exec unshare --uts --mount --pid --fork --kill-child --mount-proc "$0" inside
fi
hostname web1
home=$(mktemp -d)
export EVENKEEL=${EVENKEEL:-$target/release/evenkeel}
mkdir "$home/bin"
ln -s "$(realpath "$EVENKEEL")" "$home/bin/evenkeel"
PATH=$home/bin:$target/tools/bin:$PATH
trap 'rm -rf "$home"' EXIT
# The first process of a namespace receives only signals that it traps.
trap 'exit 130' INT
trap 'exit 143' TERM
cd "$home"
die() { printf 'pictures: %s\n' "$*" >&2; tail -n 20 "$home/log" >&2 || true; exit 1; }

# The jobs run in separate sessions, with a higher weight if the kernel weighs sessions (autogroup),
# so that they are busy even beside other load.
start_jobs() {
    setsid xz --threads=0 </dev/urandom >/dev/null & jobs=$!
    setsid xz --threads=0 </dev/zero >/dev/null & jobs="$jobs $!"
    sleep 1
    for job in $jobs; do { echo -8 >"/proc/$job/autogroup"; } 2>/dev/null || true; done
}

# Two rules show one that matches and one that does not.
echo "rule_files: [$root/rules/cpu-saturated.yml, $root/rules/memory-low.yml]" >evenkeel.yml
cat >alert.json <<JSON
{"version": "4", "alerts": [{"status": "firing", "startsAt": "2026-01-01T00:00:00Z",
  "labels": {"alertname": "HostCpuSaturated", "severity": "warning", "instance": "web1"}}]}
JSON
start_jobs
# The rule has a min_age of 30 s.
sleep 32
asked='evenkeel explain --config.file=evenkeel.yml --alert alert.json'
script --quiet --return --command "stty cols 80; $asked 2>progress" /dev/null >said
PYTHONPATH=$root/docs/images python3 -BS - "$asked" said >explain.svg <<'PYTHON'
import re, sys

from record import coloured

asked, said = sys.argv[1], open(sys.argv[2], encoding="utf-8").read()
lines = [f"$ {asked}", *said.replace("\r", "").rstrip("\n").split("\n")]

width = 32 + round(8.43 * max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in lines))
height = 32 + 20 * len(lines)
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img"'
      f' aria-label="What evenkeel explain prints">')
print('<style>text{font:14px ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d6dde6;white-space:pre}'
      '.h{font-weight:700}.g{fill:#7ee787}.y{fill:#e3b341}.r{fill:#ff7b72}.d{fill:#8b98a8}</style>')
print('<rect width="100%" height="100%" rx="8" fill="#141a22"/>')
for number, line in enumerate(lines):
    print(f'<text x="16" y="{32 + 20 * number}" xml:space="preserve">{coloured(line)}</text>')
print("</svg>")
PYTHON
# shellcheck disable=SC2086 # two words
kill $jobs

(umask 077; head -c 32 /dev/urandom | base64 >webhook.token)
cat >evenkeel.yml <<YAML
rule_files: [$root/rules/*.yml]
alerting_rule_files: [$root/alerting/host.rules.yml]
webhook: {token_file: webhook.token}
YAML
evenkeel run --enforce --config.file=evenkeel.yml --storage.path=storage --web.listen-address=127.0.0.1:0 \
    --webhook.listen-address=127.0.0.1:0 --collector.filesystem.mount-points-exclude='^/.+' >log 2>&1 &
daemon=$!
# The graphs need data from before the load.
sleep 60
kill -0 $daemon || die 'evenkeel has exited'
start_jobs
for _ in $(seq 180); do
    sleep 1
    if evenkeel leases --storage.path=storage --output json | grep -q '"id"'; then acted=yes; break; fi
done
[ "${acted:-}" = yes ] || die 'the rule did not act; other load on this machine may be the cause'
while [ $SECONDS -lt 300 ]; do sleep 1; done
page=$(grep -o 'addr=127.0.0.1:[0-9]*' log | head -n 1)
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$home/profile" --window-size=1180,1860 \
    --screenshot="$home/page.png" "http://${page#addr=}/" >browser.log 2>&1 || die "no picture: $(tail -n 3 browser.log)"
# shellcheck disable=SC2086 # two words
kill $jobs
kill $daemon
wait $daemon || true
"$root/docs/images/record.py" demo.svg "$root/tests/demo.sh"
cp page.png explain.svg demo.svg "$root/docs/images/"

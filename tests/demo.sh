#!/usr/bin/env bash
# Shows a whole episode on the terminal, with a real Prometheus and a real Alertmanager. A job
# saturates the processors, an alert fires, and evenkeel lowers the priority of the job. The job
# finishes, the alert resolves, and evenkeel restores the previous nice values.
#
# Everything runs on free loopback ports and in one temporary directory, and the script removes it
# afterwards.
set -euo pipefail
# evenkeel refuses files that others can write.
umask 022

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
evenkeel=${EVENKEEL:-$target/release/evenkeel}
tools=$target/tools/bin
rule_nice=15
node_name=$(uname -n)

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi
started=$SECONDS
step() { printf '\n%s%3d s  %s%s\n' "$bold" $((SECONDS - started)) "$*" "$plain"; }
say() { printf '       %s\n' "$*"; }
# Gives a viewer time to look, on a terminal only.
look() { if [ -t 1 ]; then say "$dim($1)$plain"; sleep "${2:-6}"; fi; }
quote() { sed "s/^/       $dim| /; s/\$/$plain/"; }
die() { printf '\ndemo: %s\n' "$*" >&2; exit 1; }

[ -x "$evenkeel" ] || die "$evenkeel is missing: run \`make demo\`"
[ -x "$tools/prometheus" ] || die "$tools/prometheus is missing: run \`make demo\`"
# Any user can raise a nice value, but only root can lower it again.
[ "$(id -u)" = 0 ] || die "evenkeel restores nice values, which only root may do: build as your user, then run
      sudo env EVENKEEL=$evenkeel CARGO_TARGET_DIR=$target $root/tests/demo.sh"

home=$(mktemp -d)
evenkeel_pid=
pids=()
clean_up() {
    local status=$?
    trap - EXIT INT TERM
    # evenkeel first, so that it can revert its leases.
    local pid
    for pid in $evenkeel_pid ${pids[@]+"${pids[@]}"}; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    # 130 and 143 are an interrupt by the user, and need no log.
    if [ $status = 1 ]; then tail -n 20 "$home"/*.log >&2 || true; fi
    rm -rf "$home"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints the body of the answer, or nothing without an answer.
fetch() {
    python3 -S -c 'import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())' \
        "$1" 2>/dev/null || true
}

# await SECONDS COMMAND: waits until the command succeeds, but no longer than SECONDS.
await() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.2
    done
}

nice_values() {
    local stat
    for stat in /proc/"$job"/task/*/stat; do
        # After the name in brackets, which may contain spaces, nice is the 17th field (proc(5)).
        sed 's/^\([0-9]*\) (.*) /\1 /' "$stat" | awk '{ print $18 }'
    done | sort -n | uniq -c | awk '{ printf "%s%d thread%s at nice %d", sep, $1, ($1 == 1 ? "" : "s"), $2; sep = ", " }'
}
all_at() { [[ $(nice_values) =~ ^[0-9]+\ threads?\ at\ nice\ $1$ ]]; }
back() { [ "$(nice_values)" = "$before" ]; }
ready() { python3 -S -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "http://$1/-/ready" 2>/dev/null; }
alert_state() {
    fetch "http://$prometheus/api/v1/alerts" |
        python3 -S -c 'import json, sys; print("".join(a["state"] for a in json.load(sys.stdin)["data"]["alerts"]) or "none")' 2>/dev/null || true
}
alert_is() { [ "$(alert_state)" = "$1" ]; }
ask() { say "$bold\$ evenkeel $*$plain"; "$evenkeel" "$@" --storage.path="$home/storage" | quote; }

read -r metrics webhook prometheus alertmanager < <(python3 -S -c '
import socket
sockets = [socket.socket() for _ in range(4)]
for s in sockets: s.bind(("127.0.0.1", 0))
print(*(f"127.0.0.1:{s.getsockname()[1]}" for s in sockets))')

step "A job starts, and is idle at first"
# Hashing releases Python's global lock, so each thread uses a whole processor. SIGUSR1: work;
# SIGUSR2: stop working.
cat >"$home/job.py" <<'PYTHON'
import hashlib, os, signal, sys, threading, time
working = threading.Event()
signal.signal(signal.SIGUSR1, lambda *_: working.set())
signal.signal(signal.SIGUSR2, lambda *_: working.clear())
block = bytes(1 << 20)
def work():
    while True:
        working.wait()
        hashlib.sha256(block).digest()
for _ in range(os.cpu_count()):
    threading.Thread(target=work, daemon=True).start()
open("/proc/self/comm", "w").write(sys.argv[1])
open(sys.argv[2], "w").close()
while True:
    time.sleep(60)
PYTHON
job_name=demo-job-$(($$ % 100000))
python3 -S "$home/job.py" "$job_name" "$home/job.started" &
job=$!
pids+=("$job")
await 10 test -e "$home/job.started" || die "the job does not start"
before=$(nice_values)
say "$job_name, pid $job: $before"

step "evenkeel starts, and may act (--enforce)"
mkdir "$home/rules"
(umask 077; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$home/webhook.token")
cat >"$home/rules/demo.yml" <<YAML
rules:
  - name: calm-the-job
    matchers: ['alertname="DemoCpuSaturated"']
    select: {name: "$job_name"}
    actions:
      - nice: $rule_nice
YAML
cat >"$home/evenkeel.yml" <<YAML
rule_files: [rules/*.yml]
webhook: {token_file: webhook.token}
YAML
quote <"$home/rules/demo.yml"
"$evenkeel" run --config.file="$home/evenkeel.yml" --storage.path="$home/storage" --enforce \
    --web.listen-address="$metrics" --webhook.listen-address="$webhook" >"$home/evenkeel.log" 2>&1 &
evenkeel_pid=$!
await 15 ready "$metrics" || die "evenkeel does not start"
say "metrics on http://$metrics/metrics, webhook on http://$webhook/webhook (with a token)"
say "${bold}Status page: http://$metrics/$plain"
look "open it beside this terminal: it shows everything that happens now" 10

step "Prometheus and Alertmanager start"
cat >"$home/demo.rules.yml" <<'YAML'
groups:
  - name: demo
    rules:
      - {alert: DemoCpuSaturated, expr: evenkeel_cpu_busy_ratio > 0.8, for: 3s}
YAML
cat >"$home/prometheus.yml" <<YAML
global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}
rule_files: [demo.rules.yml]
alerting: {alertmanagers: [{static_configs: [{targets: ['$alertmanager']}]}]}
scrape_configs:
  - {job_name: evenkeel, static_configs: [{targets: ['$metrics'], labels: {instance: '$node_name'}}]}
YAML
cat >"$home/alertmanager.yml" <<YAML
route: {receiver: evenkeel, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 10s}
receivers:
  - name: evenkeel
    webhook_configs:
      - url: http://$webhook/webhook
        send_resolved: true
        http_config: {authorization: {credentials_file: '$home/webhook.token'}}
YAML
"$tools/alertmanager" --config.file="$home/alertmanager.yml" --storage.path="$home/alertmanager" \
    --web.listen-address="$alertmanager" --cluster.listen-address= >"$home/alertmanager.log" 2>&1 &
pids+=($!)
"$tools/prometheus" --config.file="$home/prometheus.yml" --storage.tsdb.path="$home/prometheus" \
    --web.listen-address="$prometheus" >"$home/prometheus.log" 2>&1 &
pids+=($!)
await 30 ready "$alertmanager" || die "Alertmanager does not start"
await 30 ready "$prometheus" || die "Prometheus does not start"
say "Prometheus on http://$prometheus, Alertmanager on http://$alertmanager"
quote <"$home/demo.rules.yml"

step "The job saturates all $(nproc) processors"
kill -USR1 "$job"
await 40 alert_is firing || die "the alert does not fire"
say "Prometheus: the alert DemoCpuSaturated fires about instance=\"$node_name\""

step "Alertmanager calls evenkeel, and evenkeel lowers the priority of the job"
await 30 all_at $rule_nice || die "evenkeel did not set the nice value of the job: $(nice_values)"
say "before: $before"
say "now:    $(nice_values)"
ask leases
look "the status page shows the same: the alert, the rule and why it acted, the lease and its deadline"

step "The job is done"
kill -USR2 "$job"
if await 30 alert_is none; then
    say "Prometheus: the alert has resolved"
    step "Alertmanager calls evenkeel, and evenkeel reverts its changes"
    await 30 back || die "evenkeel did not restore the job: $(nice_values)"
    look "the status page lists it under Last actions, with the values before and after"
else
    say "Other load keeps the alert firing. evenkeel also reverts its changes when it stops:"
    step "evenkeel stops, and reverts its changes"
    kill "$evenkeel_pid"
    await 15 back || die "evenkeel did not restore the job: $(nice_values)"
fi
say "before: $before"
say "now:    $(nice_values)"
ask history

step "Done. The demo stops and removes everything that it started."

#!/usr/bin/env bash
# Runs `make run` in a clone, as a new user does, until /metrics, the webhook listener and the status page answer, and
# ends it with Ctrl-C's signal.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
run=
stop() {
    [ -z "$run" ] || kill -INT -- "-$run" 2>/dev/null || true
    wait
    rm -rf "$scratch"
}
trap stop EXIT

git clone --quiet "$root" "$scratch/evenkeel"
cd "$scratch/evenkeel"
# Crates that are compiled already need no second time.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
setsid make run >"$scratch/output" 2>&1 &
run=$!
fail() {
    echo "first run: $1" >&2
    tail -n 30 "$scratch/output" >&2
    exit 1
}
answer() { curl --silent --fail --max-time 5 "http://127.0.0.1:19797$1"; }
started=$SECONDS
until grep -q 'to try it:' "$scratch/output"; do
    kill -0 "$run" 2>/dev/null || fail "make run ended"
    [ $((SECONDS - started)) -lt 1200 ] || fail "no start within 20 minutes"
    sleep 1
done
metrics=$(answer /metrics) || fail "no answer on /metrics"
for name in node_cpu_seconds_total node_memory_MemAvailable_bytes 'evenkeel_mode{mode="dry-run"} 1'; do
    grep -qF "$name" <<<"$metrics" || fail "/metrics lacks $name"
done
page=$(answer /) || fail "no status page"
grep -q 'dry-run: actions are only logged' <<<"${page,,}" || fail "the page does not say dry-run"
grep -q 'alerting_rule_groups=[1-9]' "$scratch/output" || fail "no shipped alerting rules"
kill -INT -- "-$run"
wait "$run" || true
run=
grep -q 'shutting down' "$scratch/output" || fail "no orderly end"
[ -z "$(git status --porcelain)" ] || fail "make run leaves files behind: $(git status --porcelain)"
echo "first run: /metrics and status page answered after $((SECONDS - started)) s"

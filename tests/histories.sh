#!/usr/bin/env bash
# Runs COUNT random histories of the engine against its model, in portions of 1000. Each portion has a seed of its own,
# from SEED on, so that a portion can be repeated. The output of a failed portion stays in target/histories-failed.
set -euo pipefail
cd "$(dirname "$0")/.."

count=$1 seed=$2 portion=1000
mkdir -p "${CARGO_TARGET_DIR:-target}/histories-failed"
out=$(cd "${CARGO_TARGET_DIR:-target}/histories-failed" && pwd)
test=engine::tests::level::engine_answers_exactly_what_the_sources_say

binary=$(cargo test --locked --profile histories --lib --no-run --message-format=json |
    python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("profile", {}).get("test") and message.get("executable"):
        print(message["executable"])')

# proptest looks for the source in the directories above this one. Where it finds none, a failure does not become the
# first case of each portion that follows.
elsewhere=$(mktemp -d)
trap 'rm -r "$elsewhere"' EXIT
cd "$elsewhere"

run() {
    local log=$out/$1
    if PROPTEST_CASES=$portion PROPTEST_RNG_SEED=$1 "$binary" --exact "$test" >"$log" 2>&1 && grep -q '1 passed' "$log"; then
        echo "seed $1: $portion passed"
        rm "$log"
    else
        echo "seed $1: failed, see $log" >&2
        return 1
    fi
}
export -f run
export binary out portion test

seq "$seed" $((seed + (count + portion - 1) / portion - 1)) | xargs -P "$(nproc)" -I SEED bash -c 'run SEED'

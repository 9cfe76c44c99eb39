#!/usr/bin/env bash
# Checks the Ansible role with ansible-lint. `tests/guest/role.rs` applies it.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools=${CARGO_TARGET_DIR:-$root/target}/tools
"$root/tests/tools.sh" ansible-lint
# Its caches belong under target.
export HOME=$tools/ansible-home ANSIBLE_HOME=$tools/ansible-home
mkdir -p "$HOME"
cd "$root/packaging/ansible"
"$tools/bin/ansible-lint" --offline --nocolor --project-dir . --profile production .

# What one does with this project, by name. `make` alone lists it.

tools := $(or $(CARGO_TARGET_DIR),target)/tools

# All that git keeps at the top: what a trial left behind shows in `make lint`.
top := .cargo .ci .gitignore ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md Cargo.lock Cargo.toml LICENSE Makefile README.md SECURITY.md build.rs \
	alerting benches dashboards docs evenkeel.yml fuzz packaging proptest-regressions rules rustfmt.toml src tests

.PHONY: help run test e2e test-guest lint fmt bench bench-guest fuzz demo pictures layout dashboards grafana

FUZZ_SECONDS ?= 600

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build evenkeel and run it here: dry-run, its ledger under target/run
	cargo run --locked --release -- run --config.file=evenkeel.yml --storage.path=target/run

test: ## every test, the end-to-end ones with real Prometheus and Alertmanager included
	tests/tools.sh
	cargo test --locked

e2e: ## the end-to-end tests only
	tests/tools.sh
	cargo test --locked --test suite end_to_end

test-guest: ## what needs a real systemd and cgroup v2, in a machine of its own under QEMU
	tests/guest.sh

fuzz: ## every fuzz target for FUZZ_SECONDS each
	fuzz/run $(FUZZ_SECONDS)

lint: ## format, clippy, scripts, stray files, and whether the dashboards are what their script builds
	@stray=$$(git ls-files | cut -d/ -f1 | sort -u | grep -vxF $(top:%=-e %)); \
	if [ -n "$$stray" ]; then echo "lint: does this belong at the top? Then name it in the Makefile:" $$stray >&2; exit 1; fi
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test guest -- -D warnings
	bash -n tests/tools.sh tests/packages.sh tests/guest.sh tests/guest/root/usr/lib/evenkeel-guest/run tests/demo.sh docs/images/make.sh fuzz/run .ci/run
	tests/tools.sh grafana-sdk
	PYTHONPATH=$(tools)/grafana-sdk python3 dashboards/build.py --check

fmt: ## format the code
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml

bench: ## the benchmarks, beside the peers that they are measured against
	tests/tools.sh webhook process-exporter
	cargo bench --locked --bench '*'

bench-guest: ## who ends a memory hog sooner, evenkeel or earlyoom, in a machine of its own under QEMU
	tests/guest.sh --bench

demo: ## the whole loop on this terminal in two minutes: alert, action, resolve, undo
	tests/tools.sh
	cargo build --locked --release
	tests/demo.sh

pictures: ## take the pictures of the README anew, from what really happens: six minutes, as root
	tests/tools.sh
	cargo build --locked --release
	docs/images/make.sh

layout: ## record anew which functions a running daemon uses, for the order in which the release is linked: needs valgrind
	cargo build --locked --release
	python3 packaging/layout/record.py target/release/evenkeel

dashboards: ## build dashboards/*.json anew
	tests/tools.sh grafana-sdk
	PYTHONPATH=$(tools)/grafana-sdk python3 dashboards/build.py

grafana: ## how to load the dashboards into a Grafana
	@cat dashboards/README.md

# Targets for building, testing and releasing evenkeel. `make` lists them.

tools := $(or $(CARGO_TARGET_DIR),target)/tools

# All tracked files and directories at the top level. `make lint` reports others.
top := .cargo .ci .gitignore ARCHITECTURE.md CHANGELOG.md CONTRIBUTING.md Cargo.lock Cargo.toml LICENSE Makefile README.md SECURITY.md build.rs deny.toml \
	alerting benches dashboards docs evenkeel.yml fuzz packaging proptest-regressions rules rustfmt.toml src tests

# The build profile of what ships. `dev` takes the binary of the tests instead of compiling one that
# ships.
PACKAGE_PROFILE ?= dist

# Compresses the package of the tests quickly.
export PACKAGE_FLAGS ?= $(if $(filter dev,$(PACKAGE_PROFILE)),--fast)

# Prints the path of the binary that is packed.
binary = $(if $(filter dev,$(PACKAGE_PROFILE)),cargo build --locked >&2 && echo $(or $(CARGO_TARGET_DIR),target)/debug/evenkeel,packaging/compile.sh $(PACKAGE_PROFILE))

.PHONY: help run test e2e package image release test-packages test-reproducible test-guest lint rust-version fmt bench bench-guest fuzz histories soak demo pictures sheet layout dashboards grafana

FUZZ_SECONDS ?= 600
HISTORIES ?= 100000
SEED ?= 1
MINUTES ?= 30

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# evenkeel uses no directory of another user.
run: ## build evenkeel and run it here in dry-run, with its ledger in target/run
	cargo run --locked --release -- run --config.file=evenkeel.yml --storage.path=$(shell [ -O . ] && echo target/run || mktemp -d)

test: ## run all tests, including end-to-end tests with a real Prometheus and Alertmanager
	tests/tools.sh
	EVENKEEL_TESTS=full cargo test --locked

e2e: ## run only the end-to-end tests
	tests/tools.sh
	cargo test --locked --test suite end_to_end

test-packages: package image ## check packages, image, Kubernetes manifest and Ansible role
	tests/lintian.sh target/debian/evenkeel_*.deb
	tests/rpm.sh "$$($(binary))"
	tests/image.sh target/image/evenkeel.tar
	tests/ansible.sh

test-reproducible: ## make a release in two directories, check it, and compare the bytes
	tests/reproducible.sh $(PACKAGE_PROFILE)

test-guest: ## run the tests that need a real systemd and cgroup v2, in a virtual machine under QEMU
	tests/guest.sh

fuzz: ## run each fuzz target for FUZZ_SECONDS
	fuzz/run $(FUZZ_SECONDS)

histories: ## run HISTORIES random histories of the engine, with seeds from SEED on
	tests/histories.sh $(HISTORIES) $(SEED)

soak: ## run evenkeel for MINUTES under alerts, load, reloads and a thousand new processes a second
	tests/tools.sh prometheus alertmanager
	EVENKEEL_SOAK_MINUTES=$(MINUTES) cargo test --locked --test soak -- --nocapture

package: ## build a Debian package and an RPM in target/debian and target/generate-rpm
	binary="$$($(binary))" && rm -rf target/debian target/generate-rpm && \
	packaging/build.sh deb "$$binary" target/debian && packaging/build.sh rpm "$$binary" target/generate-rpm

image: ## build a container image, target/image/evenkeel.tar
	binary="$$($(binary))" && packaging/image.sh "$$binary" target/image/evenkeel.tar

release: ## build all files of a release in target/release-files; SIGNING_KEY=FILE signs them
	packaging/release.sh $(PACKAGE_PROFILE) target/release-files

lint: ## check format, clippy, licences, scripts, prose, stray files, and that the dashboards match their script
	@stray=$$(git ls-files | cut -d/ -f1 | sort -u | grep -vxF $(top:%=-e %)); \
	if [ -n "$$stray" ]; then echo "lint: unknown files at the top level; remove them or list them in the Makefile:" $$stray >&2; exit 1; fi
	cargo fmt --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test guest --test soak -- -D warnings
	tests/prose.sh
	tests/rust-version.sh --metadata
	tests/tools.sh cargo-deny
	$(tools)/bin/cargo-deny --locked check licenses bans sources
	for script in tests/*.sh tests/guest/root/usr/lib/evenkeel-guest/run docs/images/make.sh packaging/*.sh packaging/debian/p* fuzz/run .ci/run; do bash -n $$script || exit 1; done
	tests/tools.sh grafana-sdk
	PYTHONPATH=$(tools)/grafana-sdk python3 dashboards/build.py --check

rust-version: ## build evenkeel with the oldest Rust that it supports
	tests/rust-version.sh

fmt: ## format the code
	cargo fmt
	cargo fmt --manifest-path fuzz/Cargo.toml

bench: ## run the benchmarks, beside the programs that they compare with
	tests/tools.sh node_exporter webhook process-exporter
	cargo bench --locked --profile dist --bench '*'

bench-guest: ## compare how soon evenkeel and earlyoom kill a memory hog, in a virtual machine under QEMU
	tests/guest.sh --bench

demo: ## show alert, action, resolve and revert on this terminal, in two minutes
	tests/tools.sh prometheus alertmanager
	cargo build --locked --release
	tests/demo.sh

pictures: ## create the pictures of the README from a real run: eight minutes, as root
	tests/tools.sh chromium prometheus alertmanager
	cargo build --locked --release
	docs/images/make.sh

sheet: ## draw all panels of the dashboards without a Grafana, in docs/images: ten minutes, as root
	tests/tools.sh chromium prometheus promtool
	cargo build --locked --release
	python3 dashboards/sheet

layout: ## record which functions a running daemon uses, for the link order of the dist build: needs valgrind
	cargo build --locked --profile dist
	python3 packaging/layout/record.py target/dist/evenkeel

dashboards: ## build dashboards/*.json
	tests/tools.sh grafana-sdk
	PYTHONPATH=$(tools)/grafana-sdk python3 dashboards/build.py

grafana: ## show how to load the dashboards into a Grafana
	@cat dashboards/README.md

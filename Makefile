# The only door. `make demo` and `make test` need nothing but the toolchains (Rust, Go, and
# for the chart Go again, for the gateway Python); what they use is built once and kept outside
# of the checkout.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
CARGO_DENY_VERSION := 0.20.2
TARGET := $(shell $(CARGO) metadata --no-deps --format-version 1 2>/dev/null | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
BIN := $(TARGET)/debug/mandate

.PHONY: help build demo test fuzz check cluster-test gateway-test bench generate verify image

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 16

build: ## the binary, for development
	$(CARGO) build --locked --bin mandate

demo: ## Mandate's main job on a real API server; KEEP=1 leaves it running
	$(CARGO) build --locked --bin mandate --example demo
	$(TARGET)/debug/examples/demo

test: ## every test: pure, command line, on a real API server, and behind a real gateway
	$(CARGO) build --locked --tests --bin mandate
	tests/controlplane/build.sh > /dev/null
	$(MAKE) fuzz
	HELM="$$(tests/helm.sh | tail -n 1)" GATEWAY="$$(tests/gateway/build.sh | tail -n 1)" $(CARGO) test --locked

fuzz: ## random and broken reviews, manifests, pods and plans, for about a minute
	PROPTEST_CASES=$${PROPTEST_CASES:-1500} $(CARGO) test --locked --lib --test cases -- panic property laws

check: ## the tests that need no cluster: seconds
	$(CARGO) test --locked --lib --bins --test cases --test cli

cluster-test: ## the tests on a real API server
	tests/controlplane/build.sh > /dev/null
	HELM="$$(tests/helm.sh | tail -n 1)" $(CARGO) test --locked --test cluster

gateway-test: ## the tests behind a real Envoy, with a real MCP client and server
	GATEWAY="$$(tests/gateway/build.sh | tail -n 1)" $(CARGO) test --locked --test gateway

bench: ## figures for docs/benchmarks.md; takes a while, and wants the machine for itself
	$(CARGO) build --locked --release --bin mandate
	$(CARGO) bench --locked

generate: build ## everything that the binary prints and that is committed
	mkdir -p crds charts/mandate/files/crds
	$(BIN) crds --output-dir crds
	$(BIN) crds --output-dir charts/mandate/files/crds
	$(BIN) docs .
	MANDATE_GENERATE=1 $(CARGO) test --locked --test cases coverage > /dev/null

verify: ## format, lints, generated files current, no ring, licences and sources of what comes in
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(MAKE) generate
	git diff --exit-code -- crds charts README.md docs
	! $(CARGO) tree --locked -e normal -i ring 2>/dev/null | grep -q .
	command -v cargo-deny > /dev/null || $(CARGO) install --locked cargo-deny@$(CARGO_DENY_VERSION)
	$(CARGO) deny --locked check licenses bans sources

image: ## container image; needs a Docker daemon
	docker build -t mandate:dev .

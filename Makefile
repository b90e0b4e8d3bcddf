# Two commands for newcomers: `make demo` and `make test`. Each installs what the machine lacks and says so.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Builds live outside the clone, so that a fresh clone does not build the dependencies again.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/millrace/target
BIN := $(CARGO_TARGET_DIR)/release
DEMO ?= $(HOME)/.cache/millrace/demo
EVENTS ?= 5000000
FUZZ_SECONDS ?= 120
CHAOS_FAULTS ?= 30
CHAOS_SECONDS ?= 600
FUZZ := worker/pipeline/fuzz

.PHONY: help packages build dist demo test lint bench bench-queries bench-freshness bench-day chaos fuzz clean

help: ## What can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 17

packages: ## Install the Debian packages that are missing.
	@deploy/local/packages.sh

build: packages ## Build the binaries.
	@echo "building: the first time with all dependencies, later only what changed"
	cargo build --release --locked -p millrace-client -p millrace-loadtest

dist: packages ## The binary for production: optimised by what it does while it works. Two builds, an hour and a half on 2 cores.
	deploy/dist/build.sh

demo: build ## 5M generated events into a lake: summary, a query, where it lies.
	@DEMO="$(DEMO)" BIN="$(BIN)" EVENTS="$(EVENTS)" client/examples/shop/demo.sh

test: packages lint ## Everything that must hold: formatting, lints, docs, every test on real services.
	@echo "tests: units, golden pipelines, real services, faults"
	cargo test --release --locked --workspace

# In the profile of the tests: build scripts, those that compile C libraries among them, run once for all.
lint: packages ## Formatting, clippy, rustdoc.
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --workspace --no-deps --quiet

bench: build ## Millrace beside DuckDB, Polars and PySpark on the same files.
	MILLRACE_BIN="$(BIN)/millrace" LOADTEST_BIN="$(BIN)/millrace-loadtest" loadtest/bench/run.sh

bench-queries: build ## Dashboard queries of 50 clients on 50M events in PostgreSQL, and on models of them (QUERIES="--rows 1000000 --follow 5000").
	MILLRACE_BIN="$(BIN)/millrace" LOADTEST_BIN="$(BIN)/millrace-loadtest" python3 loadtest/bench/queries.py $(QUERIES)

bench-freshness: build ## From an event's sending to its row in PostgreSQL at 50K events/s (FRESHNESS="--rate 5000 --outage 180").
	MILLRACE_BIN="$(BIN)/millrace" LOADTEST_BIN="$(BIN)/millrace-loadtest" python3 loadtest/bench/freshness.py $(FRESHNESS)

bench-day: build ## A day of 100M events through hour jobs, handoff and models; 68 GB of disk (DAY="--events 10000000").
	MILLRACE_BIN="$(BIN)/millrace" LOADTEST_BIN="$(BIN)/millrace-loadtest" python3 loadtest/bench/day.py $(DAY)

chaos: build ## CHAOS_FAULTS faults at random in CHAOS_SECONDS while a cluster follows a topic, then the proof (CHAOS_SEED).
	MILLRACE_BIN="$(BIN)/millrace" $(BIN)/millrace-loadtest chaos --out "$(HOME)/.cache/millrace/chaos" \
	  --faults $(CHAOS_FAULTS) --seconds $(CHAOS_SECONDS) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

fuzz: packages ## Random bytes as JSON, CSV and Avro events, random text as pipeline files: FUZZ_SECONDS for each.
	@command -v cargo-fuzz >/dev/null || { echo "installing cargo-fuzz"; cargo install --locked cargo-fuzz; }
	@rustup toolchain list | grep -q nightly || rustup toolchain install --profile minimal nightly
	cd $(FUZZ) && for target in decode csv avro spec; do \
	  mkdir -p corpus/$$target; seeds=seeds/$$target; \
	  if [[ $$target == spec ]]; then seeds="$(CURDIR)/client/examples/shop $(CURDIR)/client/examples/github"; fi; \
	  cargo +nightly fuzz run --fuzz-dir . --sanitizer none $$target corpus/$$target $$seeds -- \
	    -len_control=0 -max_len=8192 -max_total_time=$(FUZZ_SECONDS); \
	done

clean: ## Remove the demo's files (the build cache stays).
	rm -rf "$(DEMO)"

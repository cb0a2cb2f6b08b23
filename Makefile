# Every command of the project is one target. `make` alone lists them.
SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release
OGEL := $(RELEASE)/ogel
OGEL_ARGS ?=
PG_MANIFEST := $(RELEASE)/pg-install.json
PYTHON = $(shell test_runner/venv path)
PYTEST_ARGS ?=
SEED ?=
N ?= 2000
FUZZ_SECONDS ?= 60

.PHONY: help build build-rust postgres postgres-all ext up down test test-rust test-cluster test-compose verify fix regress tap \
	twin walcheck pagecheck sim model chaos fuzz bench bench-decoder bench-redo bench-branch bench-pageserver bench-coldstart bench-commit bench-compute bench-election bench-history bench-density storemodel

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

up: build ## Set up and start a local cluster, print the connection string
	@$(OGEL) $(OGEL_ARGS) up

down: ## Stop the local cluster; its data stays
	@$(OGEL) $(OGEL_ARGS) down

build: postgres ext build-rust ## Build everything that a cluster runs

postgres:
	@pgxn/pg build patched
	@pgxn/pg template >/dev/null
	@mkdir -p $(RELEASE) && pgxn/pg manifest $(PG_MANIFEST)

postgres-all:
	@pgxn/pg build all
	@mkdir -p $(RELEASE) && pgxn/pg manifest $(PG_MANIFEST)

build-rust:
	@$(CARGO) build --release --workspace --bins

ext: postgres
	@$(MAKE) --no-print-directory -s -C compute-ext PG_CONFIG=$$(pgxn/pg prefix patched)/bin/pg_config OUT=$(abspath $(RELEASE))/ext

test: verify test-rust test-cluster ## Everything that CI runs

# PostgreSQL is there, so a test that goes without it has failed.
test-rust: postgres-all
	OGEL_TEST_REQUIRE_POSTGRES=1 $(CARGO) test --workspace --no-fail-fast

test-cluster: postgres-all ext build-rust
	$(PYTHON) -m pytest test_runner -m "not heavy" $(PYTEST_ARGS)

test-compose: postgres ext build-rust ## The images and docker-compose.yml in a Docker engine: killed, re-created, thrown away, nothing lost
	$(PYTHON) -m pytest test_runner/tests/test_compose.py -s $(PYTEST_ARGS)

verify: ## Formatting, lints, licences and advisories; writes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	test_runner/deny

fix: ## Format, and mend what lints can mend
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty
	$(CARGO) fmt --all

regress: postgres-all ext build-rust ## PostgreSQL's own suites on our compute, with normal caches and with next to none; SUITES="core contrib/bloom" chooses
	$(PYTHON) test_runner/regress.py $(SUITES)
	$(PYTHON) test_runner/regress.py --caches small $(or $(SUITES),core)
	$(PYTHON) test_runner/regress.py --caches tiny $(SUITES)

tap: postgres-all ext build-rust ## PostgreSQL's own TAP tests on our compute, then with next to no caches and a kill for every stop; SUITES="bin/scripts recovery/013" chooses
	$(PYTHON) test_runner/tap.py $(SUITES)
	$(PYTHON) test_runner/tap.py --kill --caches tiny $(or $(SUITES),contrib modules recovery subscription)

pagecheck: postgres-all ext build-rust ## Every page of the pageserver compared with stock PostgreSQL's after the same WAL, at six positions
	$(PYTHON) test_runner/pagecheck.py

walcheck: postgres-all ## Redo compared with PostgreSQL's own page images, on stock and patched WAL
	$(CARGO) build --release -p walcheck
	$(PYTHON) test_runner/walcheck.py

sim: ## Simulate the quorum: SEED=n replays one run, N=n explores
	$(CARGO) run --release -q -p quorum-sim -- $(if $(SEED),--seed $(SEED),--runs $(N))

model: ## The quorum's protocol as a model, checked exhaustively; prints its state count
	$(CARGO) run --release -q -p quorum-model -- --terms 3

twin: postgres-all ext build-rust ## A random life on our compute and on stock PostgreSQL, compared: N=n seeds from FIRST on, SEED=n replays one
	PYTHONPATH=test_runner $(PYTHON) -m twin $(if $(SEED),--seed $(SEED),--first $(or $(FIRST),1) --seeds $(if $(filter file,$(origin N)),200,$(N))) $(if $(STATEMENTS),--statements $(STATEMENTS))

chaos: postgres-all ext build-rust ## Live chaos: processes killed, frozen and wiped under load
	$(PYTHON) -m pytest test_runner -m heavy $(PYTEST_ARGS)

fuzz: ## Fuzz the WAL decoder and redo, each target for FUZZ_SECONDS
	@wal-decoder/fuzz/run $(FUZZ_SECONDS)

bench: bench-decoder bench-coldstart bench-commit bench-election ## All benchmarks

bench-decoder: ## WAL decoding and redo, as ratios to a memcpy; OGEL_BENCH_WAL names other WAL than the sample
	$(CARGO) bench -p wal-decoder

bench-redo: postgres-all ## WAL decoding against stock PostgreSQL's own crash redo of the same WAL
	$(CARGO) bench -p wal-decoder --no-run
	$(PYTHON) test_runner/walcheck_bench.py

bench-pageserver: postgres-all ## Page reads beside a bare echo server, ingest beside stock PostgreSQL's crash redo of the same WAL
	$(CARGO) bench -p pageserver --no-run
	$(PYTHON) test_runner/bench_pageserver.py

bench-coldstart: postgres-all ext build-rust ## Cold start of a compute, phase by phase
	$(PYTHON) test_runner/bench_coldstart.py

bench-branch: postgres ext build-rust ## Branch creation, on a small and on a larger database
	$(PYTHON) test_runner/bench_branch.py

bench-commit: postgres-all ext build-rust ## Commits on our quorum beside stock synchronous replication
	$(PYTHON) test_runner/bench_commit.py

bench-compute: postgres-all ext build-rust ## Bulk load, reads in memory, index build and cold scan beside stock PostgreSQL; BENCH_ARGS="--scale 10 …"
	$(PYTHON) test_runner/bench_compute.py $(BENCH_ARGS)

bench-election: postgres-all ext build-rust ## Election to first commit, beside the disk and the loopback
	$(PYTHON) test_runner/bench_election.py

bench-density: ## 10,000 idle tenants attached: time to start, resident memory per tenant (OGEL_BENCH_TENANTS)
	$(CARGO) bench -p pageserver --bench density

storemodel: ## The pageserver's store against a naive map: CASES=n random histories (a failing one is printed, its seed kept)
	PROPTEST_CASES=$(or $(CASES),10000) $(CARGO) test --release -p pageserver --lib store_model

bench-history: ## A day of WAL at speed: store size, layers, memory and read cost over time, as CSV and PNG in the target folder
	OGEL_BENCH_OUT=$(abspath $(TARGET))/history.csv $(CARGO) test --release -q -p pageserver --lib a_day_of_history -- --ignored --nocapture
	$(PYTHON) test_runner/plot_history.py $(TARGET)/history.csv $(TARGET)/history.png

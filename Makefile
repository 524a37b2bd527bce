# `make run` and `make test` are all that a newcomer needs; each installs what it lacks.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test bench fmt lint check soak crontab-check prepare

export CARGO_TERM_COLOR ?= auto

help: ## Say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

prepare:
	@bash scripts/prepare.sh

run: prepare ## Start server, worker and sample jobs on 127.0.0.1:7700
	cargo run --release --locked --bin pendula -- dev $(ARGS)

test: prepare ## Everything that CI runs: format, lints, all tests
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo test --workspace --locked --no-fail-fast

bench: prepare ## Measure this machine: prints a table (ARGS=--quick for a short one)
	cargo build --release --locked --bin pendula
	target/release/pendula bench $(ARGS)

soak: prepare ## The long tests: crashes under load, many seeds, flat memory (SIM_SEEDS, KILLS, SOAK_SECONDS)
	cargo build --release --locked --bin pendula
	SIM_SEEDS=$${SIM_SEEDS:-200000} cargo test --locked --release -p pendula-sim
	PENDULA_BIN=$(CURDIR)/target/release/pendula KILLS=$${KILLS:-100} cargo test --locked -p pendula-e2e -- --nocapture kill
	PENDULA_BIN=$(CURDIR)/target/release/pendula FREEZE_SECONDS=$${FREEZE_SECONDS:-90} SOAK_SECONDS=$${SOAK_SECONDS:-600} \
		cargo test --locked -p pendula-e2e -- --nocapture s2_3 o_14

crontab-check: prepare ## Import the crontabs that Debian packages ship (installs a few, as root)
	cargo build --release --locked --bin pendula
	bash e2e/crontab-debian.sh

fmt: ## Format the code
	cargo fmt --all

lint: ## Lints alone
	cargo clippy --workspace --all-targets --locked -- -D warnings

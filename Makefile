# `make run` and `make test` are all that a newcomer needs; each installs what it lacks.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test bench fmt lint check soak upgrade-check compat crontab-check prepare

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

soak: prepare ## The long tests: crashes under load, many seeds, flat memory, chaos (SIM_SEEDS, KILLS, SOAK_SECONDS, CHAOS_SECONDS, CHAOS_RATE, AKKA_SECONDS, AKKA_IDLE_SECONDS)
	cargo build --release --locked --bin pendula
	SIM_SEEDS=$${SIM_SEEDS:-200000} cargo test --locked --release -p pendula-sim
	PENDULA_BIN=$(CURDIR)/target/release/pendula KILLS=$${KILLS:-100} cargo test --locked -p pendula-e2e -- --nocapture kill
	PENDULA_BIN=$(CURDIR)/target/release/pendula FREEZE_SECONDS=$${FREEZE_SECONDS:-90} SOAK_SECONDS=$${SOAK_SECONDS:-600} \
		cargo test --locked -p pendula-e2e -- --nocapture s2_3 o_14
	PENDULA_BIN=$(CURDIR)/target/release/pendula CHAOS_SECONDS=$${CHAOS_SECONDS:-300} CHAOS_RATE=$${CHAOS_RATE:-500} \
		cargo test --locked -p pendula-e2e -- --nocapture a_cluster_loses
	cargo test --locked --release -p pendula-powerjob --test it -- --ignored --nocapture --test-threads 1 workers_over_akka_at workers_over_akka_cost

upgrade-check: prepare ## Upgrade servers under load, one by one, from the version OLD (a commit or tag) to this one, and one back
	@test -n "$(OLD)" || { echo "say from which version: make upgrade-check OLD=v0.1.0" >&2; exit 2; }
	rm -rf target/old && git worktree prune && git worktree add --detach target/old $(OLD)
	cd target/old && CARGO_TARGET_DIR=$(CURDIR)/target/old-target cargo build --release --locked --bin pendula
	cargo build --release --locked --bin pendula
	PENDULA_OLD_BIN=$(CURDIR)/target/old-target/release/pendula PENDULA_BIN=$(CURDIR)/target/release/pendula \
		cargo test --locked -p pendula-e2e -- --nocapture s1_6

compat: prepare ## Every published PowerJob worker and client against this server: prints version by feature (OVER=http or akka, COMPAT_HTTP, COMPAT_AKKA, COMPAT_CLIENTS, COMPAT_BIG, COMPAT_TASKS)
	cargo build --release --locked --bin pendula
	PENDULA_BIN=$(CURDIR)/target/release/pendula \
		cargo test --locked -p pendula-e2e --test it -- --ignored --nocapture --test-threads=1 compat_over_$(OVER)

crontab-check: prepare ## Import the crontabs that Debian packages ship (installs a few, as root)
	cargo build --release --locked --bin pendula
	bash e2e/crontab-debian.sh

fmt: ## Format the code
	cargo fmt --all

lint: ## Lints alone
	cargo clippy --workspace --all-targets --locked -- -D warnings

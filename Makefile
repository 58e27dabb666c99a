# Every habit of the project is one target; each sets up what it needs, once.
SHELL := /bin/bash
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
PYTHON := .venv/bin/python
READY := .venv/.ready
PEERS := .venv-peers/.ready
GOLDEN := .venv-golden/.ready
PEERS_PYTHON ?= $(PYTHON)
UI_PORT ?= 5000
TENSORBOARD_PORT ?= 6006
STORE := $(or $(QDESK_MLRUNS),mlruns)
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Installs a Debian package that tests need, where that is possible; without it they are skipped.
debian = $(2) >/dev/null 2>&1 || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	&& echo "setting up: Debian's $(1)" && apt-get update -qq \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null 2>&1; } \
	|| echo "Debian's $(1) is not here and cannot be installed: tests that need it are skipped"

# Ends where somebody else listens on a port: what answers there would not be ours.
free = ! (exec 3<>/dev/tcp/127.0.0.1/$(1)) 2>/dev/null \
	|| { echo "port $(1) is in use; name another: make $@ $(2)=N" >&2; exit 1; }

export QDESK_MLRUNS := $(STORE)
export MLFLOW_DISABLE_TELEMETRY := true
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: help train test test-ui test-team test-all lint format type bench bench-throughput bench-growth bench-whole bench-policy bench-events bench-environments bench-variants bench-checkpoints bench-evaluation bench-trading bench-stopping bench-tracking evaluate study-simulation study-gate study-kills study-known study-real study-mutations golden count peers ui tensorboard lock clean study-statistics study-sizing

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

train: $(READY) ## train the linear and the two-layer Q-network on real bars, and compare them
	@.venv/bin/qdesk train --preset linear,two_layer $(ARGS)
	@.venv/bin/qdesk evaluate qdesk-linear --quiet || true # a server may be away
	@.venv/bin/qdesk evaluate qdesk-two-layer --quiet || true
	@echo
	@echo "compare runs and model versions:  make ui"
	@echo "watch the curves:                 make tensorboard"

evaluate: $(READY) ## judge the two candidates by a walk-forward, and write their reports
	@.venv/bin/qdesk evaluate qdesk-linear --walk-forward $(ARGS)
	@.venv/bin/qdesk evaluate qdesk-two-layer --walk-forward $(ARGS)

test: $(READY) ## run the tests but for the long studies
	@$(PYTHON) -m pytest -m "not slow and not ui and not team" $(SIDE_BY_SIDE) $(ARGS)

test-ui: $(READY) ## look at MLflow, TensorBoard and a report in headless Chromium; keeps screenshots
	@$(call debian,chromium,command -v chromium)
	@SCREENSHOTS=$(CURDIR)/screenshots $(PYTHON) -m pytest -m ui $(ARGS)

test-team: $(READY) ## train against a team's server: PostgreSQL, S3 store, passwords
	@$(call debian,postgresql,ls /usr/lib/postgresql/*/bin/postgres)
	@$(PYTHON) -m pytest -m team $(ARGS)

test-all: $(READY) ## run every test
	@$(PYTHON) -m pytest $(SIDE_BY_SIDE) $(ARGS)

lint: $(READY) ## check style and format
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

format: $(READY) ## mend style and format
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

type: $(READY) ## check types
	@$(PYTHON) -m mypy

bench: bench-throughput bench-growth bench-whole bench-policy ## measure the speed of training: all of docs/performance.md

bench-throughput: $(READY) $(PEERS) ## measure throughput against peers and the floor, on one core
	@$(PYTHON) -m benchmarks.throughput $(ARGS)

bench-growth: $(READY) ## measure how an update grows with ring, batch, streams, features, units
	@$(PYTHON) -m benchmarks.growth $(ARGS)

bench-whole: $(READY) ## measure a whole training against the bare loop, and start-up
	@$(PYTHON) -m benchmarks.whole $(ARGS)

bench-policy: $(READY) $(PEERS) ## measure the time until a good policy, against Stable-Baselines3
	@$(PYTHON) -m benchmarks.policy $(ARGS)

bench-events: $(READY) ## measure how fast an event log becomes bars
	@$(PYTHON) -m benchmarks.events $(ARGS)

bench-environments: $(READY) ## measure the Gymnasium environments
	@$(PYTHON) -m benchmarks.environments $(ARGS)

bench-variants: $(READY) ## measure what each part of the algorithm costs
	@$(PYTHON) -m benchmarks.variants $(ARGS)

bench-checkpoints: $(READY) ## measure what a checkpoint costs
	@$(PYTHON) -m benchmarks.checkpoints $(ARGS)

bench-tracking: $(READY) ## measure what tracking costs, with servers that live, die and are down
	@$(PYTHON) -m benchmarks.tracking $(ARGS)

bench-evaluation: $(READY) ## measure how long a backtest and whole reports take
	@$(PYTHON) -m benchmarks.evaluation $(ARGS)

bench-trading: $(READY) ## measure a desk: decisions, whole bars, start-up
	@$(PYTHON) -m benchmarks.trading $(ARGS)

bench-stopping: $(READY) ## measure how soon a desk stops on a quiet and a busy feed
	@$(PYTHON) -m benchmarks.stopping $(ARGS)

study-simulation: $(READY) ## measure what latency, spread and depth take
	@$(PYTHON) -m benchmarks.simulation $(ARGS)

study-sizing: $(READY) ## measure what a constant position trades and makes under every sizing
	@$(PYTHON) -m benchmarks.sizing $(ARGS)

study-gate: $(READY) ## measure how often the gate passes noise, and a real edge (long)
	@$(PYTHON) -m benchmarks.gate $(ARGS)

study-statistics: $(READY) ## measure false rates of Sharpe ratios and coverage of intervals, by law of returns
	@$(PYTHON) -m benchmarks.coverage $(ARGS)

study-kills: $(READY) ## kill trainings at random moments, resume them, compare bit for bit (long)
	@$(PYTHON) -m benchmarks.kills $(ARGS)

study-known: $(READY) ## train every algorithm on a market with a known answer (long)
	@$(PYTHON) -m benchmarks.known_markets $(ARGS)

study-real: $(READY) ## train every preset on real bars with five seeds (long)
	@$(PYTHON) -m benchmarks.real_bars $(ARGS)

study-mutations: $(READY) ## plant faults in critical code, see whether its tests notice (long)
	@$(PYTHON) -m benchmarks.mutations $(ARGS)

golden: $(GOLDEN) ## make the golden numbers of the tests anew, with other libraries
	@.venv-golden/bin/python tests/golden/make_golden.py

count: $(READY) ## count arrows, circles and packed lines of the house
	@$(PYTHON) -m benchmarks.count

peers: $(PEERS) ## train the peers' agents on the Gymnasium environment
	@PYTHONPATH=. .venv-peers/bin/python docs/examples/train_with_sb3.py $(ARGS)

ui: $(READY) ## open the MLflow UI on loopback
	@$(call free,$(UI_PORT),UI_PORT)
	@echo "http://127.0.0.1:$(UI_PORT)/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"
	@store=$$(realpath -m "$$QDESK_MLRUNS") && .venv/bin/mlflow server --host 127.0.0.1 --port $(UI_PORT) \
		--workers 1 --backend-store-uri "sqlite:///$$store/mlflow.db" --default-artifact-root "$$store/artifacts"

tensorboard: $(READY) ## open TensorBoard on loopback
	@$(call free,$(TENSORBOARD_PORT),TENSORBOARD_PORT)
	@.venv/bin/tensorboard --logdir "$$QDESK_MLRUNS/tensorboard" --host 127.0.0.1 --port $(TENSORBOARD_PORT)

lock: $(UV) ## pin the dependencies anew
	@$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.12 --upgrade \
		--custom-compile-command "make lock" --group dev pyproject.toml --output-file requirements.lock

clean: ## remove environments and caches; mlruns stays
	rm -rf .venv .venv-peers .venv-golden .uv .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A machine without uv gets one inside the repository, from the package index alone.
.uv/bin/uv:
	@echo "setting up: uv $(UV_VERSION) into .uv"
	@python3 -m venv .uv
	@.uv/bin/python -m pip install -qq --disable-pip-version-check uv==$(UV_VERSION)

$(READY): requirements.lock pyproject.toml .python-version $(filter .uv/%,$(UV))
	@echo "setting up: Python environment into .venv"
	@$(UV) venv --quiet --allow-existing .venv
	@$(UV) pip sync --quiet --require-hashes --compile-bytecode --python $(PYTHON) requirements.lock
	@$(UV) pip install --quiet --no-deps --no-build-isolation --python $(PYTHON) --editable .
	@touch $@

# Peers share no environment with TensorFlow: PyTorch and TensorFlow in one process crash.
$(PEERS): benchmarks/requirements-peers.txt
	@echo "setting up: peers' environment into .venv-peers"
	@$(PEERS_PYTHON) -m venv --clear .venv-peers
	@.venv-peers/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

$(GOLDEN): tests/golden/requirements.txt
	@echo "setting up: golden numbers' environment into .venv-golden"
	@$(PEERS_PYTHON) -m venv --clear .venv-golden
	@.venv-golden/bin/python -m pip install -qq --disable-pip-version-check --requirement $<
	@touch $@

# Everything starts here and needs only python3 (3.11 or newer) with venv, make and a network for
# the first run. The environment is .venv; a stamp in it is renewed when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ADDR ?= 127.0.0.1:9092
DATA ?= data
ARGS ?=
BENCH ?= compare
UNIT := $(wildcard tests/protocol tests/storage tests/broker tests/fuzz) tests/test_tidy.py
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test lint check fmt bench soak groups crash sim fuzz clean uring

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 14
	@echo
	@echo "  make run DATA=/mnt/disk/rpk ADDR=127.0.0.1:19092 ARGS='--log-level debug'"

run: $(VENV)/.runtime ## set up on first use, then start the broker on 127.0.0.1:9092, data in ./data
	@exec $(BIN)/rpk-py start --data-dir $(DATA) --kafka-addr $(ADDR) $(ARGS)

test: $(VENV)/.dev ## set up on first use, then run all tests, real clients and power cuts included
	$(BIN)/python -m pytest --timeout=900 $(ARGS)

lint: $(VENV)/.dev ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint ## the same, layers and unit tests: about a minute
	$(BIN)/python -m pytest --timeout=120 -q -n 2 $(UNIT) $(ARGS)

fmt: $(VENV)/.dev ## format, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench ## beside Apache Kafka and others, about an hour; or BENCH=broker, shards, abuse, groups, codec, micro, disk_write
	$(BIN)/python -m bench.$(BENCH) $(ARGS)

soak: $(VENV)/.dev ## real clients on 4 shards under kill -9 for 5 minutes: ARGS='--seconds 600 --seed 7'
	$(BIN)/python -m tests.crash.soak $(ARGS)

groups: $(VENV)/.dev ## consumer groups of every client whose members and shards die, for 5 minutes: ARGS='--seed 7'
	$(BIN)/python -m tests.groups_load $(ARGS)

crash: $(VENV)/.dev ## power cuts, kills at system calls, failing disks, bit rot, whole brokers, in full, about an hour: ARGS='--kinds power --cycles 50'
	$(BIN)/python -m tests.crash $(ARGS)

sim: $(VENV)/.dev ## the storage engine on a simulated disk that fails and crashes, for 5 minutes: ARGS='--seeds 1000:2000', '--seed 7'
	$(BIN)/python -m tests.sim.storage --seconds 300 $(ARGS)

fuzz: $(VENV)/.dev ## a million hostile inputs in two processes: ARGS='--seconds 3600 --target produce'
	$(BIN)/python -m tests.fuzz $(ARGS)

clean: ## remove the environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: $(PYTHON) not found. On Debian or Ubuntu: apt-get install python3 python3-venv" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: rpk-py needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "      Name a newer one: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot create environments (no venv or ensurepip)." >&2; \
	  echo "      On Debian or Ubuntu: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "==> creating $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	@echo "==> installing rpk-py and what it needs to run"
	@$(PIP) install --quiet --editable .
	@$(BIN)/python -m compileall -q kafka_protocol storage rpk_py # as an install that is not editable
	@$(MAKE) --no-print-directory uring
	@touch $@

# liburing is optional: without it the broker's own ring does io_uring at the same cost.
uring: | $(BIN)/python ## build liburing's binding (again); `make run` and `make test` do it once
	@echo "==> building liburing's binding from source (a minute or two once; pip caches it)"
	@if $(PIP) install --progress-bar off --editable '.[uring]' >$(VENV)/uring.log 2>&1; then \
	  echo "==> liburing ready"; \
	else \
	  tail -n 5 $(VENV)/uring.log | sed 's/^/    /'; \
	  echo "==> liburing did not build (all of it: $(VENV)/uring.log)."; \
	  echo "    Nothing is lost: the broker uses its built-in io_uring ring. To get liburing:"; \
	  echo "      apt-get install gcc libc6-dev python3-dev && make uring"; \
	fi

$(VENV)/.bench: pyproject.toml $(VENV)/.dev
	@echo "==> installing what the benchmark needs beside it"
	@$(PIP) install --quiet --editable '.[dev,bench]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.runtime
	@echo "==> installing test clients and linters"
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@

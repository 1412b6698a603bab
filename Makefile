# Two commands for a newcomer: `make demo` and `make test`.
PYTHON ?= python3.11
# An environment for every version of Python; that of 3.11 is the one that the README speaks of
VENV := .venv$(if $(filter python3.11,$(PYTHON)),,-$(notdir $(PYTHON)))
BIN := $(VENV)/bin
# Processes that share the tests; each also starts some of its own
WORKERS ?= 2

.PHONY: help install demo test lint types unit format bench clean

help:  ## Show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Make .venv and install everything

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: install  ## Run the federation on a phantom: three sites, a few minutes
	$(BIN)/flower-simulation --app . --num-supernodes 3

test: install lint types unit  ## Lint, types and tests

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

format: install  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove what was made, not the environment
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache

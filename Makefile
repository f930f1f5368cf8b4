# `make demo` and `make test` are all a newcomer needs; each installs what it needs into .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check format parity bench ci clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo  ## search the Python manual with a real encoder, offline
	@$(BIN)/bothways demo

test: $(VENV)/.dev  ## all tests but the slow ones, a process for each core
	$(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/pytest -m slow

check: $(VENV)/.dev  ## format, lint, types, dependency rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/laws/test_dependencies.py

format: $(VENV)/.dev  ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

parity: $(VENV)/.dev  ## real vocabularies under DATA/vocab against transformers: make parity DATA=folder
	$(BIN)/python tests/parity.py $(or $(DATA),$(error DATA=folder is needed)) $(ARGS)

bench: $(VENV)/.dev  ## the benchmark table; the peers get environments of their own
	$(BIN)/python benchmarks/run.py $(ARGS)

ci: check test  ## what .ci/run runs

clean:  ## remove environments and caches
	rm -rf .venv* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.demo

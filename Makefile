# Everything sets itself up in .venv; a fresh machine needs Python >= 3.10, make and a package index.
PYTHON ?= python3
VENV := .venv
# Tests wait for processes half of the time: three keep two cores busy. With more, some are too slow.
WORKERS ?= 3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
BENCHMARKS := $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py))

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types docs mutants wheel pythons bench bench-docs format clean

help: ## show this list
	@awk -F ': .*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "PYTHON=... chooses the Python that .venv is made with (now: $(PYTHON))"

install: $(INSTALLED) ## make .venv with everything in it

$(INSTALLED): pyproject.toml constraints.txt tests/transformers.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.10 is needed: make PYTHON=/path/to/python ..." if sys.version_info < (3, 10) else 0)'
	@echo "Installing into $(VENV); the first time takes a few minutes."
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --editable '.[all,dev]'
	@rm -rf $(VENV)/transformers
	@$(PIP) --requirement tests/transformers.txt --no-deps --target $(VENV)/transformers
	@touch $@

demo: $(INSTALLED) ## train a small model and deliver what it logs; artefacts go to demo-output/
	@$(BIN)/python examples/demo.py

test: $(INSTALLED) ## run every test
	@$(BIN)/python -m compileall -q tracelet_otel exporters tests # once, not in each of the many processes
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal

lint: $(INSTALLED) ## check style, formatting, and that imports go one way
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache

mutants: $(INSTALLED) ## change the code in one place at a time; which changes do tests not notice? ARGUMENTS="--count 50 PATH"
	@$(BIN)/python -m tools.mutants $(ARGUMENTS)

types: $(INSTALLED) ## check types
	@$(BIN)/pyright --warnings

docs: $(INSTALLED) ## build the documents as a site, into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build # not --quiet, with which it is not strict

wheel: $(INSTALLED) ## build the sdist and the wheel into dist/, and check the wheel in a clean environment
	@$(BIN)/python tools/check_wheel.py

pythons: wheel ## check the wheel with every other supported Python on this machine
	@$(BIN)/python tools/check_wheel.py --other-pythons

bench: $(INSTALLED) ## run every benchmark
	@set -e; for file in $(BENCHMARKS); do echo "== $$file"; $(BIN)/python $$file; done

bench-docs: $(INSTALLED) ## run those whose figures are in docs/benchmarks.md, and put them there
	@set -e; for name in peers memory startup import_logs; do $(BIN)/python benchmarks/$$name.py --write-docs; done

format: $(INSTALLED) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

clean: ## remove all that was made here, except .venv
	@rm -rf dist build demo-output mutants .pytest_cache .ruff_cache .hypothesis *.egg-info
	@find tracelet_otel exporters tests examples benchmarks tools -name __pycache__ -prune -exec rm -rf {} +

# `make demo` and `make test` are all a newcomer needs: what is missing is installed first, into this folder only.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A python that is new enough: the first of these. Another one: make setup PYTHON=/path/to/python3
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python3.12 python3.13,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
# On Linux the default PyTorch build brings CUDA (several GB). A CPU-only one: make setup TORCH_ARGS="--index-url <its index>"
TORCH_ARGS ?=
# Which tests: make test ARGS="tests/core -k hashing"
ARGS ?=
# How `make test` runs the core's tests; .ci/run says `make test-core`.
CORE_TESTS ?= $(PYTEST) -m "not long" tests/core

TORCH := torch==2.13.0
CORE_PACKAGES := numpy safetensors pydantic cryptography jaxtyping beartype pytest hypothesis
PIP_FLAGS := -q --disable-pip-version-check --no-input

PYTEST := .venv/bin/python -m pytest --durations=5
# One thread a process: a second one would spin until a core is free. Ray's workers are as eager as the rest: its own
# niceness of 15 lets them starve.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 RAY_worker_niceness=0 .venv/bin/python tests/side_by_side.py

# Run a command silently; when it fails, show everything it printed.
define quietly
log=$$(mktemp); if ! { $(1); } >"$$log" 2>&1; then \
	cat "$$log" >&2; rm -f "$$log"; echo "Failed: $(2)" >&2; exit 1; fi; rm -f "$$log"
endef

.PHONY: help setup setup-core demo test test-all test-core lint format bench clean

help:
	@echo "make demo       a small world goes the whole way: train, delete, audit, publish, receipt"
	@echo "make test       every part once, in under 10 minutes (make test ARGS='tests/core -k hashing' for some)"
	@echo "make test-all   every test, also those marked long; the shapes of every call are checked"
	@echo "make test-core  the algorithm's tests in an environment that has no Ray"
	@echo "make lint       style, types and architecture"
	@echo "make format     let ruff rewrite what it can"
	@echo "make bench      which benchmarks there are and how to run them"
	@echo "make setup      only install; make clean removes what was installed and built"

setup: .venv/.ready
	@echo "Installed in .venv; try: .venv/bin/tru --help"

.venv/.ready: pyproject.toml constraints.txt
	@$(MAKE) check-python
	@if [ ! -x .venv/bin/python ]; then \
		echo "Making a Python environment in .venv with $$($(PYTHON) --version)"; \
		$(call quietly,$(PYTHON) -m venv .venv,making .venv); fi
	@echo "Installing PyTorch (the largest part, about a minute)"
	@$(call quietly,.venv/bin/python -m pip install $(PIP_FLAGS) $(TORCH_ARGS) $(TORCH) -c constraints.txt,installing PyTorch)
	@echo "Installing Ray and the rest in the versions of constraints.txt (about a minute)"
	@$(call quietly,.venv/bin/python -m pip install $(PIP_FLAGS) -e '.[test$(comma)dev]' -c constraints.txt,installing this project and what it needs)
	@$(call quietly,.venv/bin/python -m pip check,the installed packages do not fit together)
	@touch .venv/.ready

setup-core: .venv-core/.ready
	@echo "Installed in .venv-core"

# Nothing is compiled here: that takes two thirds of the installation, and the first tests compile what they need.
.venv-core/.ready: Makefile constraints.txt
	@$(MAKE) check-python
	@echo "Making a small Python environment without Ray in .venv-core (about a minute)"
	@$(call quietly,$(PYTHON) -m venv .venv-core,making .venv-core)
	@$(call quietly,.venv-core/bin/python -m pip install --no-compile $(PIP_FLAGS) $(TORCH_ARGS) $(TORCH) -c constraints.txt,installing PyTorch)
	@$(call quietly,.venv-core/bin/python -m pip install --no-compile $(PIP_FLAGS) $(CORE_PACKAGES) -c constraints.txt,installing the test tools)
	@touch .venv-core/.ready

.PHONY: check-python
check-python:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "This project needs Python 3.11 or newer; found: $$(python3 --version 2>/dev/null || echo 'no python3')." >&2; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi

demo: .venv/.ready
	@.venv/bin/tru demo

# Three lanes fill two cores: what talks to Ray mostly waits.
test: .venv/.ready
ifeq ($(strip $(ARGS)),)
	@$(SIDE_BY_SIDE) '$(CORE_TESTS)' '$(PYTEST) -m "ray and not long" --ignore=tests/core' \
		'$(PYTEST) -m "not ray and not long" --ignore=tests/core'
else
	@.venv/bin/python -m pytest -m "not long" $(ARGS)
endif

test-all: .venv/.ready
ifeq ($(strip $(ARGS)),)
	@TRU_SHAPE_CHECKS=all $(SIDE_BY_SIDE) '$(PYTEST) tests/core' '$(PYTEST) -m ray --ignore=tests/core' \
		'$(PYTEST) -m "not ray" --ignore=tests/core'
else
	@TRU_SHAPE_CHECKS=all .venv/bin/python -m pytest $(ARGS)
endif

test-core: .venv-core/.ready
	@.venv-core/bin/python -c 'import importlib.util as u, sys; \
		found = [n for n in ("ray", "pyarrow", "s3fs", "boto3", "torch_geometric") if u.find_spec(n)]; \
		sys.exit(f".venv-core must not have: {found}" if found else 0)'
	@echo "No Ray, no pyarrow, no storage client here: the algorithm alone."
	@env -u PYTHONDONTWRITEBYTECODE .venv-core/bin/python -m pytest -m "not long" tests/core $(ARGS)

lint: .venv/.ready
	@echo "ruff: style and banned calls"; .venv/bin/ruff check --quiet .
	@echo "ruff: layout"; .venv/bin/ruff format --check --quiet . || { echo "Run: make format" >&2; exit 1; }
	@if grep -rnE 'allow_pickle *= *True' --include='*.py' tru_core workflows benchmarks examples; then \
		echo "allow_pickle=True runs code from a data file" >&2; exit 1; fi
	@echo "pyright: types"; .venv/bin/pyright
	@echo "import-linter: imports point down only"; \
		$(call quietly,.venv/bin/lint-imports,an import points the wrong way)

format: .venv/.ready
	@.venv/bin/ruff check --fix --quiet . || true
	@.venv/bin/ruff format .

bench:
	@cat benchmarks/README.md

clean:
	rm -rf .venv .venv-core build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find tru_core workflows tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

comma := ,

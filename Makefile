# Needs make and Python 3.11 or newer, nothing else. Everything is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check

.PHONY: help demo test test-full lint docs bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       convert the digits sample for three engines at 8 and 4 bits and score every bundle"
	@echo "make test       linters, types, import directions, tests"
	@echo "make test-full  the tests that take minutes too"
	@echo "make docs       the documents as a site, build/site; a dead link is an error"
	@echo "make bench      the benchmark tables; JSON goes to build/benchmarks"
	@echo "make clean      remove .venv and everything that was built"

demo: .venv/demo.stamp
	@$(BIN)/python samples/digits/demo.py

test: lint
	@$(BIN)/python -m pytest -q -n 2 -m "not full"

test-full: lint .venv/full.stamp
	@$(BIN)/python -m pytest -q -n 2

lint: .venv/test.stamp
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

# In an environment of its own: it reads the sources and imports none of them.
DOCS := build/docs-env
docs: $(DOCS)/stamp
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

$(DOCS)/stamp: docs/requirements.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip -qq --disable-pip-version-check install -r docs/requirements.txt
	@touch $@

BENCHMARKS := calibration latency conversion runtime install zoo basic_pitch coreml_interpreter bad_input
bench: .venv/test.stamp
	@mkdir -p build/benchmarks
	@for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py --json build/benchmarks/$$name.json || exit 1; done

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache samples/digits/bundles

# A stamp is written when the installation has succeeded, so an interrupted one starts again.
.venv/demo.stamp: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "edgeq needs Python 3.11 or newer; \
	this is " + sys.version.split()[0] + ". Say: make PYTHON=/path/to/python3.11")'
	@echo "installing edgeq into .venv (once; a minute or two)"
	@$(PYTHON) -m venv .venv
	@$(PIP) install -e '.[tflite,coreml,image]'
	@touch $@

# The exact torch, so that a machine that has only a CPU build of it at hand uses that one.
.venv/test.stamp: .venv/demo.stamp tests/requirements.txt
	@echo "installing torch and the test tools into .venv (once; some minutes)"
	@$(PIP) install torch==2.13.0 -e '.[all]' -r tests/requirements.txt
	@touch $@

# What the table of whole architectures is exported from.
.venv/full.stamp: .venv/test.stamp benchmarks/requirements.txt runtime/js/package.json
	@$(PIP) install -r benchmarks/requirements.txt
	@if command -v npm >/dev/null; then cd runtime/js && npm install --no-save --no-package-lock --ignore-scripts --silent; fi
	@touch $@

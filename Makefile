# The only commands to know. Needs Python >= 3.11 and Java 17 or 21; everything else goes into .venv.

PYTHON ?= python3
# Passed on to pytest, for example: make test-unit ARGS="-k ranking --cov"
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := xampler jobs tests benchmarks

# Python compiles what it imports once, also where the environment forbids to keep it: without, every process that
# imports torch and transformers, each Spark worker too, starts some six seconds later.
export PYTHONDONTWRITEBYTECODE =

# The targets share one machine, one demo folder and one virtual environment, so `make -j` takes them in turn.
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The stamp holds the path of the clone: the commands in a moved or copied .venv still belong to the old place.
# Without the stamp the virtual environment is half-made, and is made anew.
ifneq ($(wildcard $(STAMP)),)
  ifneq ($(shell $(BIN)/python -c 'print(open("$(STAMP)").read().strip())' 2>/dev/null),$(CURDIR))
    $(shell rm -f $(STAMP))
  endif
endif

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s  %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: java $(STAMP) ## run the whole method on the embedded data and models: demo/report.html
	@$(BIN)/xampler demo

.PHONY: test
test: java $(STAMP) ## every test; those for a GPU skip themselves without one
	@$(BIN)/pytest $(ARGS)

.PHONY: test-unit
test-unit: $(STAMP) ## the method alone: no Java, no GPU, seconds
	@$(BIN)/pytest tests/unit $(ARGS)

.PHONY: test-spark
test-spark: java $(STAMP) ## the stages on a local Spark session and the jobs end to end
	@$(BIN)/pytest tests/spark tests/jobs $(ARGS)

.PHONY: test-gpu
test-gpu: $(STAMP) ## the tests that need a CUDA device
	@$(BIN)/pytest -m gpu $(ARGS)

.PHONY: lint
lint: $(STAMP) ## style, likely bugs, formatting and spelling
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/codespell

.PHONY: fmt
fmt: $(STAMP) ## format, and mend what can be mended safely
	@$(BIN)/ruff check --fix-only
	@$(BIN)/ruff format

.PHONY: types
types: $(STAMP) ## types (mypy --strict) and directions of import
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: bench
bench: java $(STAMP) ## measure the costly stages
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: clean
clean: ## remove what tools and the demo left behind; keeps .venv, tables and runs
	@rm -rf demo spark-warehouse metastore_db derby.log \
		build dist ./*.egg-info .coverage .coverage.* htmlcov \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find $(CODE) notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# The checks before anything is made: one sentence with the remedy each.
.PHONY: python
python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is not Python 3.11 or later: install one and name it, as in: make PYTHON=python3.11 demo" >&2; \
		exit 2; }

.PHONY: java
java: python
	@$(PYTHON) xampler/preflight.py

# uv is one small wheel, and installs the rest several times faster than pip would.
$(STAMP): setup.cfg pyproject.toml constraints.txt | python
	@if test -e $@; then echo "Bringing $(VENV) up to date"; else \
		echo "Making $(VENV), some 6.5 GB: half a minute to some minutes"; $(PYTHON) -m venv --clear $(VENV); fi
	@rm -f $@
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@echo '$(CURDIR)' > $@

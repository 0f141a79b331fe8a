# `make demo` and `make test` are all that a fresh clone needs: each makes the
# virtual environment when it is missing, and installs when something changed.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
# Processes that share the tests: most of a test is waiting. 0: pytest's own (for --pdb).
WORKERS ?= auto
# Anything: measure the coverage of asyncpipes by the tests, child processes counted.
COVERAGE ?=

python := $(VENV)/bin/python
sources := asyncpipes tests examples benchmarks docs
workers := -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# A stamp is named after what it stands for, so that neither a `git pull`, nor
# another Python, nor a moved folder, nor a clock can make an old one look new.
# It is written last: an install that was interrupted leaves none.
about_python := $(shell $(PYTHON) -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null)
digest = $(firstword $(shell (echo '$(about_python)' '$(CURDIR)'; cat $(1)) 2>/dev/null | cksum))
made     := $(VENV)/.made-$(call digest,/dev/null)
examples := $(VENV)/.examples-$(call digest,pyproject.toml)
dagster  := $(VENV)/.dagster-$(call digest,pyproject.toml)
dev      := $(VENV)/.dev-$(call digest,pyproject.toml)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo dagster-demo test lint docs pictures soak bench clean

help:
	@echo "make demo    process the flights of 2013 as twelve assets, and show what arrived"
	@echo "make dagster-demo"
	@echo "             the tutorial in Dagster's web server, until Ctrl-C  (ARGS='--port 3001')"
	@echo "make test    run all tests           (ARGS='-k framing' goes on to pytest)"
	@echo "             WORKERS=0: one after the other, as --pdb needs it"
	@echo "             COVERAGE=1 insists on 95 % of asyncpipes, and of its branches"
	@echo "make lint    ruff and mypy --strict"
	@echo "make docs    the API reference, from the docstrings, into build/docs"
	@echo "make pictures"
	@echo "             record the README's pictures anew"
	@echo "make bench   measure, beside dagster_pipes         (ARGS goes on to it)"
	@echo "make soak    the long proofs, half an hour, and a table of their figures   (ARGS=--help)"
	@echo "make clean   remove the virtual environment and all that was built"
	@echo
	@echo "PYTHON=python3.12 chooses another Python (3.10 or later)."

install: $(dev)

demo: $(examples)
	@$(python) examples/flights/host.py $(ARGS)

dagster-demo: $(dagster)
	@$(python) examples/dagster/serve.py $(ARGS)

test: $(dev)
ifeq ($(COVERAGE),)
	@$(python) -m pytest $(workers) $(ARGS)
else
	@$(python) -m coverage erase
	@$(python) -m coverage run -m pytest $(workers) $(ARGS)
	@$(python) -m coverage combine --quiet
	@$(python) -m tests.exclusions
	@$(python) -m coverage report
	@$(python) -m tests.branches
endif

lint: $(dev)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy $(sources)

docs: $(dev)
	@$(python) docs/reference.py $(ARGS)

pictures: $(dev)
	@$(python) docs/record.py $(ARGS)

soak: $(dev)
	@$(python) -m tests.soak $(ARGS)

bench: $(dev)
	@$(python) -m benchmarks $(ARGS)

clean:
	rm -rf .venv .venvs build dist .coverage htmlcov .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find asyncpipes tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(made):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or later is needed, and '$(PYTHON)' is not: set PYTHON=..."; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module (Debian: apt-get install python3-venv)"; exit 1; } >&2
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(examples): $(made)
	$(call install,examples,$(examples))

# Each has the packages of those before it.
$(dagster): $(made)
	$(call install,dagster-demo,$(examples) $(dagster))

$(dev): $(made)
	$(call install,dev,$(examples) $(dagster) $(dev))

define install
	@echo "installing asyncpipes[$(1)] into $(VENV) ..."
	@rm -f $(VENV)/.examples-* $(VENV)/.dagster-* $(VENV)/.dev-*
	@$(python) -m pip install --quiet --disable-pip-version-check --editable '.[$(1)]'
	@touch $(2)
endef

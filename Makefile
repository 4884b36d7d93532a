# The commands of this project; `make help` lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := all
MAKEFLAGS += --no-print-directory

ifneq ($(words $(CURDIR)),1)
$(error '$(CURDIR)' has a space, at which the jobs of Snakemake break; move this checkout to a folder without)
endif
# Packages of another Python would be imported before those of the environment.
unexport PYTHONPATH
# For users without a home, such as those of services.
ifneq ($(shell test -d "$${HOME:-}" -a -w "$${HOME:-}" && echo home),home)
export XDG_CACHE_HOME ?= $(CURDIR)/.snakemake/cache
endif

PYTHON ?= python3
CONFIG ?= workflow/config/config.yaml
CORES ?= all
MANY_CORE := workflow/config/many_core.yaml
PAPER_SIM := $(MANY_CORE) workflow/config/paper_sim.yaml
READINGS ?= reduced
READINGS_CONFIG := $(MANY_CORE) workflow/config/readings.yaml \
  $(if $(filter full,$(READINGS)),workflow/config/readings_full.yaml)

VENV := .venv
STAMP := $(VENV)/.installed
# The environment's programs first, for what Snakemake starts too.
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# CONFIG is one file, whatever its name, or several; mistakes are told before Snakemake reads them.
export CONFIG
FILES = files=("$$CONFIG"); [[ -e "$$CONFIG" ]] || read -ra files <<<"$$CONFIG"; \
	$(RUN) python -m veltair.config "$${files[@]}" >/dev/null
# Each process of the tests takes up to 1 GB.
TESTS := $(RUN) python -m pytest -n "$$(nproc)" --maxprocesses 8 -m "not long"
SNAKEMAKE := $(RUN) snakemake --cores $(CORES) --rerun-incomplete

.PHONY: all many-core paper-sim readings redraw validation test test-long coverage check smoke estimate clean help

all: $(STAMP)  ## Run the whole evaluation of CONFIG, then the many-core study in its reduced grid (the default)
	@$(FILES); set -x; $(SNAKEMAKE) --configfile "$${files[@]}"
	$(if $(filter workflow/config/config.yaml,$(CONFIG)),$(MAKE) many-core)

many-core: $(STAMP)  ## Simulate the many-core study in its reduced grid: every figure of the paper, in minutes
	$(SNAKEMAKE) --configfile $(MANY_CORE)

paper-sim: $(STAMP)  ## Simulate the many-core study in its full grid: hours, taken up again where it ended
	$(SNAKEMAKE) --keep-going --configfile $(PAPER_SIM)

readings: $(STAMP)  ## Simulate what VELTAIR's paper leaves open, in every combination: minutes; READINGS=full: hours
	$(SNAKEMAKE) readings readings_figure --configfile $(READINGS_CONFIG)

redraw: $(STAMP)  ## Draw the many-core figures, and judge the claims, from the shipped tables of the full grid: seconds
	$(SNAKEMAKE) redraw --configfile $(PAPER_SIM)

validation: $(STAMP)  ## Compare the simulator with this machine: results/validation.md and figures
	@$(FILES); set -x; $(SNAKEMAKE) validation validation_figures --configfile "$${files[@]}"

test: $(STAMP)  ## Run the tests on all cores, those that measure or pin cores alone
	$(TESTS)

test-long: $(STAMP)  ## Run the tests that take longer than a test suite should
	$(RUN) python -m pytest -m long

coverage: $(STAMP)  ## Run the tests and print which lines of the code none of them reaches
	$(TESTS) --cov=veltair --cov=baselines --cov-report=term-missing:skip-covered

check: $(STAMP)  ## Check style, types, the arrows between the packages, and the workflow
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) clang-format --dry-run -Werror $$(git ls-files "*.[ch]")
	$(RUN) mypy
	$(RUN) lint-imports --no-cache
	$(RUN) snakemake --lint

smoke: $(STAMP)  ## Simulate from shipped cost tables and compare with the golden summary, in minutes
	$(SNAKEMAKE) smoke --configfile workflow/config/smoke.yaml

estimate: $(STAMP)  ## Print the jobs and hours of CONFIG before anything starts
	@$(FILES); $(RUN) python -m veltair.evaluation estimate --config "$${files[@]}"

clean:  ## Remove everything that was generated, measurements included; the environment stays
	find results figures -mindepth 1 ! -path results/README.md ! -path figures/.gitkeep -delete
	rm -rf .snakemake .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*

help:  ## Print this list
	@echo "make TARGET [CONFIG=workflow/config/config.yaml] [PYTHON=python3] [CORES=all]"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo "Settings: workflow/config/README.md. Columns of the results: results/README.md."

# The stamp comes last, so that an interrupted installation is taken up again.
$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' is not Python 3.11 or newer; install one and run: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' has no venv module; install it (on Debian and Ubuntu: python3-venv)" >&2; exit 1; }
	@command -v gcc >/dev/null || { \
	  echo "error: gcc was not found; install it (on Debian and Ubuntu: build-essential): kernels are linked with it" >&2; exit 1; }
	@echo "Installing the pinned packages of requirements.txt into $(VENV) (a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

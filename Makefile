# All commands of the project. They need Python 3.11 or later, pip and make; everything else goes into .venv.
#
#   make all           set up, then the whole workflow on the default configuration
#   make test          set up, then linters and tests (what .ci/run calls)
#   make test-system   the tests that need more than pip and two cores; skips what the machine lacks
#   make lint          linters, formatting and types, the workflow files too
#   make setup         only .venv, as `make all` uses it; make setup-dev adds tests, linters and the `priors` extra
#   make docs          the documentation site, in site/index.html
#   make lock          renew the lock files after an edit of pyproject.toml (UPGRADE=--upgrade takes newer versions)
#   make clean         remove caches; results, logs and .venv stay
#
# Settings, as in `make all PYTHON=python3.12 CORES=4`:
PYTHON ?= python3
CORES ?= all
# Workers and selection of pytest; a later -m or -k wins: make test PYTEST_FLAGS="-k calibration".
WORKERS ?= auto
PYTEST_FLAGS ?=
# For another build of torch, say a smaller one: make all TORCH_FLAGS="--index-url <PyTorch's index of CPU builds>".
TORCH_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
MOTO := "moto[s3]==5.2.5" flask==3.1.3 flask-cors==6.0.5
S3_PLUGIN := snakemake-storage-plugin-s3==0.3.6 boto3==1.44.5 botocore==1.44.5 jmespath==1.1.0 \
	python-dateutil==2.9.0.post0 s3transfer==0.19.3 six==1.17.0
UV := uv==0.13.8
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --generate-hashes \
	--no-emit-index-url $(UPGRADE) pyproject.toml requirements.in

export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := all
.PHONY: all test test-system lint docs setup setup-dev lock clean

all: setup
	$(BIN)/snakemake --cores $(CORES) all

test: setup-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

test-system: setup-dev $(VENV)/.set-up-docs .venv-moto/.set-up
	OMP_NUM_THREADS=$$($(BIN)/python -c "import os; print(os.cpu_count())") $(BIN)/python -m pytest -m system $(PYTEST_FLAGS)

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/snakefmt --check .
	$(BIN)/snakemake --lint

docs: $(VENV)/.set-up-docs
	rm -rf site
	$(BIN)/python -m docs.builder site

setup: $(VENV)/.set-up

setup-dev: $(VENV)/.set-up-dev

# The S3 server of the system tests, and Snakemake's storage plugin, have separate environments: their requirements conflict
# with requirements.lock.
.venv-moto/.set-up: Makefile
	$(PYTHON) -m venv .venv-moto
	.venv-moto/bin/python -m pip install --quiet $(MOTO)
	.venv-moto/bin/python -m pip install --quiet --no-deps --target .venv-moto/plugin $(S3_PLUGIN)
	@touch $@

# The stamps mark a finished set-up; an edited lock or pyproject.toml makes them stale.
$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or later, or name it as in 'make PYTHON=python3.12 all'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version 2>&1) is too old: Python 3.11 or later is needed; name one as in 'make PYTHON=python3.12 all'" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.set-up: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing what requirements.lock pins into $(VENV), then $(TORCH): a few minutes the first time"
	$(PIP) install --quiet --require-hashes -r requirements.lock
	$(PIP) install --quiet $(TORCH_FLAGS) "$(TORCH)"
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.set-up-dev: requirements-dev.lock $(VENV)/.set-up
	$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.set-up-docs: requirements-docs.lock $(VENV)/.set-up
	$(PIP) install --quiet --require-hashes -r requirements-docs.lock
	@touch $@

lock: | $(BIN)/python
	$(PIP) install --quiet $(UV)
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --output-file requirements.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	UV_CUSTOM_COMPILE_COMMAND="make lock" $(LOCK) --extra docs --constraint requirements-dev.lock --output-file requirements-docs.lock

clean:
	rm -rf site .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

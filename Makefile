# Needs make and Python 3.11 or 3.12; everything else is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12)
STEMS_HOME ?= data

HOME_PATH := $(abspath $(STEMS_HOME))
MLFLOW_DB := $(HOME_PATH)/mlflow/mlflow.db
BIN := .venv/bin
PINS ?= constraints.txt
READY := .venv/.ready
# No telemetry and no downloads at run time: models and songs are made here or ship in packages.
QUIET := DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
IN_HOME := $(QUIET) STEMS_HOME=$(HOME_PATH) DAGSTER_HOME=$(HOME_PATH)/dagster
# A file's tests run in one process, so that what they share is built once; `tests/conftest.py` says in which order.
PYTEST := env -u STEMS_HOME $(QUIET) OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15
NOT_HERE := slow or service or browser or gpu

.DEFAULT_GOAL := help
.PHONY: help environment demo demo-full test test-all live soak audit lock bench bench-gpu dev mlflow migrate clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

environment: $(READY)  ## the environment in .venv (other targets make it when it is missing)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: found no python3.11 and no python3.12; install one, or say PYTHON=/path/to/python" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/pyright --version  # fetches the node it runs on, if there is none
	touch $(READY)

demo: $(READY)  ## demo songs, the whole asset graph, the score table (about 6 minutes, 1.2 GB)
	$(IN_HOME) $(BIN)/python -m pipelines.demo

demo-full: $(READY)  ## the same with more songs and steps, whose scores the README gives (about an hour)
	$(IN_HOME) $(BIN)/python -m pipelines.demo --full

test: $(READY)  ## style, types, and all tests that are fast and need nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs 2 types fast  # types need one core, tests wait now and then

.PHONY: types fast
types:
	$(BIN)/pyright

fast:
	$(PYTEST) -m "not soak and not ($(NOT_HERE))"

test-all: $(READY)  ## the tests that `make test` leaves out, the installed wheel among them; those that cannot run here are skipped
	$(PYTEST) -rs -m "not soak and ($(NOT_HERE))" || [ $$? -eq 5 ]  # 5: there are none

live: $(READY)  ## dagster dev and an MLflow server driven as their users do (about 5 minutes; `make test-all` has them too)
	$(PYTEST) -rs tests/pipelines/live

soak: $(READY)  ## the tests that take long and show once more, with more, what others show (hours)
	$(PYTEST) -rs -m soak || [ $$? -eq 5 ]

TOOLS := .venv/tools
$(TOOLS)/bin/uv: $(READY)
	$(BIN)/python -m venv $(TOOLS)
	$(TOOLS)/bin/pip install --quiet pip-audit uv

audit: $(TOOLS)/bin/uv  ## known holes in the pinned versions (asks the package index)
	@$(TOOLS)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement $(PINS) || \
		{ echo "make audit: holes are named above; if none are, no advisories could be had and nothing is known" >&2; exit 1; }

lock: $(TOOLS)/bin/uv  ## constraints.lock: the pinned versions with the hashes of their files (asks the package index)
	$(TOOLS)/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate \
		--custom-compile-command "make lock" --constraints constraints.txt --output-file constraints.lock pyproject.toml

bench: $(READY)  ## what things cost here, beside named peers (about 15 minutes; ffmpeg is one of them)
	$(QUIET) $(BIN)/python -m ml.benchmarks

# Runs on a bare box: any python3 with torch, torchaudio, numpy, soundfile and webdataset.
bench-gpu:  ## training at paper size on a GPU: share of its matrix rate, loading (about 8 minutes)
	$(QUIET) $(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m ml.benchmarks gpu

dev: $(READY)  ## Dagster: assets, runs, checks, sensors
	$(IN_HOME) $(BIN)/python -m pipelines.home
	$(IN_HOME) $(BIN)/dg dev

mlflow: $(READY)  ## MLflow: the training runs of STEMS_HOME
	$(IN_HOME) $(BIN)/python -m pipelines.mlflow_ui

migrate: $(READY)  ## after an update: artifacts and the databases of Dagster and MLflow (stop them first)
	$(IN_HOME) $(BIN)/stems migrate
	$(IN_HOME) $(BIN)/python -m pipelines.home
	$(IN_HOME) $(BIN)/dagster instance migrate
	test ! -f $(MLFLOW_DB) || $(IN_HOME) $(BIN)/mlflow db upgrade sqlite:///$(MLFLOW_DB)

clean:  ## remove caches (never the environment, never STEMS_HOME)
	rm -rf .pytest_cache .ruff_cache
	find assets_def ml pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

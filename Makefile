# All set-up goes through uv, which is itself fetched from PyPI into a private folder.
UV := .tools/uv/bin/uv
PYTHON ?= python3
RUN := .venv/bin
CLI := $(RUN)/privacy-pipeline
SETUP := .venv/.set-up
SETUP_ENCRYPTED := .venv-encrypted/.set-up

export UV_PYTHON_PREFERENCE ?= managed
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv

.PHONY: help setup setup-encrypted demo test test-slow attack lint bench clean

help:
	@echo "make demo             real census data through the whole pipeline, plain and DP-SGD"
	@echo "make test             all tests but the slow ones"
	@echo "make test-slow        the slow ones"
	@echo "make attack           the attacks of docs/attacking.md"
	@echo "make lint             ruff, mypy --strict, import-linter, docs/claims.md"
	@echo "make bench            speed against stock TFX (benchmarks/)"
	@echo "make setup            the environment alone"
	@echo "make setup-encrypted  the environment of encrypted inference"
	@echo "make clean            removes environments, caches and the workspace; keeps data and ledger"

$(UV):
	@echo "fetching uv"
	@$(PYTHON) -m venv .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(SETUP): $(UV) pyproject.toml uv.lock
	@echo "setting up .venv (about a minute)"
	@$(UV) sync --locked --quiet --compile-bytecode --extra pipeline
	@touch $@

setup: $(SETUP)

$(SETUP_ENCRYPTED): $(UV) pyproject.toml uv.lock
	@echo "setting up .venv-encrypted (about a minute)"
	@UV_PROJECT_ENVIRONMENT=$(CURDIR)/.venv-encrypted $(UV) sync --locked --quiet --compile-bytecode --extra encrypted
	@touch $@

setup-encrypted: $(SETUP_ENCRYPTED)

demo: setup
	@$(CLI) data adult
	@$(CLI) budget register configs/adult_dp_sgd.yaml --epsilon 10 --delta 1e-5
	@$(CLI) run configs/adult_plain.yaml
	@$(CLI) run configs/adult_dp_sgd.yaml
	@$(CLI) diff adult-plain adult-dp-sgd

# The end-to-end tests start processes of their own on every core; the rest takes one core a worker.
test: setup setup-encrypted
	@$(RUN)/python -m pytest -m "not slow" -n 2 --dist loadfile --ignore tests/e2e tests
	@$(RUN)/python -m pytest -m "not slow" tests/e2e

test-slow: setup setup-encrypted
	@$(RUN)/python -m pytest -m slow tests

attack: setup setup-encrypted
	@$(RUN)/python -m tests.claims.attacks

lint: setup
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@$(RUN)/python -m tests.claims.check

bench: setup
	@$(RUN)/python benchmarks/pipeline_overhead.py

clean:
	rm -rf .venv .venv-encrypted .tools workspace .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: data/ (privacy-pipeline data adult) and ledger/ (spent budget stays spent)"

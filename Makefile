# All set-up goes through uv, which is itself fetched from PyPI into a private folder.
UV := .tools/uv/bin/uv
PYTHON ?= python3
RUN := .venv/bin
CLI := $(RUN)/privacy-pipeline
EXPORT = $(UV) export --quiet --frozen --no-default-groups --no-emit-project --no-header --no-annotate
SBOM = $(UV) export --quiet --frozen --no-default-groups --format cyclonedx1.5 --preview-features sbom-export
LOCKS := privacy_pipeline/environments/locks
SETUP := .venv/.set-up
SETUP_ENCRYPTED := .venv-encrypted/.set-up
SETUP_DOCS := .venv-docs/.set-up
PAGES := build/pages

export UV_PYTHON_PREFERENCE ?= managed
export UV_PROJECT_ENVIRONMENT := $(CURDIR)/.venv

.PHONY: help setup setup-encrypted demo test test-slow test-slow-slice kills attack audit lint docs references bench clean locks sbom

help:
	@echo "make demo             real census data through the whole pipeline, plain and DP-SGD"
	@echo "make test             all tests but the slow ones"
	@echo "make test-slow        the slow tests"
	@echo "make test-slow-slice  as many slow ones as fit a time, by the date (SLICE=1200 seconds)"
	@echo "make kills            200 random kills (KILLS=200 SEED=1)"
	@echo "make attack           the attacks of docs/attacking.md"
	@echo "make audit            known advisories for the pinned versions (needs pypi.org or osv.dev)"
	@echo "make lint             ruff, mypy --strict, import-linter, docs/claims.md, words, links"
	@echo "make docs             the documentation as a site below build/site"
	@echo "make references       the pages below docs/reference, from the models, the commands and the docstrings"
	@echo "make locks            locks of the environments that the wheel makes, from uv.lock"
	@echo "make sbom             bills of materials (CycloneDX) below dist/"
	@echo "make bench            speed against stock TFX (benchmarks/)"
	@echo "make setup            only the environment"
	@echo "make setup-encrypted  the environment of encrypted inference"
	@echo "make clean            remove environments, caches and the workspace; keep data and ledger"

$(UV):
	@echo "fetching uv"
	@$(PYTHON) -m venv .tools/uv
	@.tools/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKS)/uv.txt

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
	@$(CLI) demo

# What the wheel's `setup` installs: the same versions and hashes as uv.lock.
locks: $(UV)
	@$(EXPORT) --extra pipeline --group demo --output-file $(LOCKS)/pipeline.txt >/dev/null
	@$(EXPORT) --extra encrypted --output-file $(LOCKS)/encrypted.txt >/dev/null

# The bill of materials of the wheel and of both environments (CycloneDX).
sbom: $(UV)
	@mkdir -p dist
	@$(SBOM) --output-file dist/sbom-wheel.json
	@$(SBOM) --extra pipeline --group demo --output-file dist/sbom-pipeline.json
	@$(SBOM) --extra encrypted --output-file dist/sbom-encrypted.json

# The end-to-end tests start their own processes on every core; the other tests use one core per worker.
test: setup setup-encrypted
	@$(RUN)/python -m pytest -m "not slow" -n 2 --dist loadfile --ignore tests/e2e tests
	@$(RUN)/python -m pytest -m "not slow" tests/e2e

test-slow: setup setup-encrypted
	@$(RUN)/python -m pytest -m slow tests

# Ends at its limit: what has not begun by then has its turn on another date.
test-slow-slice: setup setup-encrypted
	@$(RUN)/python -m pytest -p tests.slow_slice --slice-seconds $(or $(SLICE),1200) -m slow tests

kills: setup setup-encrypted
	@PRIVACY_PIPELINE_TEST_RANDOM_KILLS=$(or $(KILLS),200) PRIVACY_PIPELINE_TEST_SEED=$(or $(SEED),1) \
	  $(RUN)/python -m pytest -m slow tests/e2e/test_e2e_kills.py tests/pipelines/registration/test_register_kills.py

attack: setup setup-encrypted
	@$(RUN)/python -m tests.claims.attacks

.tools/audit/.set-up: $(UV) $(SETUP) tests/environments/audit_lock.txt
	@$(UV) venv --quiet --clear --python $(RUN)/python .tools/audit
	@$(UV) pip sync --quiet --require-hashes --python .tools/audit/bin/python tests/environments/audit_lock.txt
	@touch $@

audit: .tools/audit/.set-up
	@$(RUN)/python -m tests.environments.audit

lint: setup
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy
	@$(RUN)/lint-imports
	@$(RUN)/python -m tests.claims.check
	@$(RUN)/python -m tools.words
	@$(RUN)/python -m tools.links

# Zensical takes no part in the locks of the product: it has an environment and a lock of its own.
$(SETUP_DOCS): $(UV) tools/docs_lock.txt
	@echo "setting up .venv-docs"
	@$(UV) venv --quiet --clear --python $(shell cat .python-version) .venv-docs
	@$(UV) pip sync --quiet --require-hashes --python .venv-docs/bin/python tools/docs_lock.txt
	@touch $@

docs: $(SETUP_DOCS)
	@rm -rf $(PAGES) && mkdir -p $(PAGES)/benchmarks
	@cp -r README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md docs $(PAGES)
	@cp benchmarks/README.md $(PAGES)/benchmarks
	@.venv-docs/bin/zensical build --strict --clean
	@echo "build/site/index.html"

references: setup
	@$(RUN)/python -m tools.references

bench: setup
	@$(RUN)/python benchmarks/pipeline_overhead.py

clean:
	rm -rf .venv .venv-encrypted .venv-docs .tools build workspace .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "kept: data/ (privacy-pipeline data adult) and ledger/ (spent budget stays spent)"

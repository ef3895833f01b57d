# Every target creates .venv from requirements.lock on first use. CONTRIBUTING.md says when to run which target.
#
#   make check            formatting, lint, types and the quick tests: run it before every commit
#   make test             lint and all tests that need no root, Ray tests included, benchmarks excluded
#   make test-benchmarks  every benchmark in its small form; needs wrk for that of the service
#   make test-hosts       tests on separate hosts (network namespaces); needs root on Linux and iproute2
#   make test-ray-up      lost hosts and `ray up` over ssh; also needs openssh-server and rsync; takes minutes
#   make demo             the whole workflow on the default corpus, from a search to an HTTP response
#   make docs             the documentation site, in site/; every warning is an error. Also part of lint
#   make docs-serve       the same on http://127.0.0.1:8000, rebuilt when a page changes
#   make format           fix formatting and the lint findings that ruff can fix

PYTHON ?= python3
BIN := .venv/bin

# Further options for every pytest call, for example: make test PYTEST_FLAGS=-x. CI fails on skipped tests: see
# tests/README.md.
PYTEST_FLAGS = $(if $(CI),--fail-on-skip)
PYTEST = $(BIN)/python -m pytest $(PYTEST_FLAGS)
# Tests run in two processes. A file stays in one process, so its module fixtures are built once; files start in the
# order of tests/conftest.py, the long ones first. With the default of one OpenMP thread per core, two processes compete
# for two cores: the quick tests take twice as long.
PYTEST_PARALLEL = OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder
# Seconds for one test. They replace the limit in pyproject.toml where whole clusters start, stop and are killed.
RAY_TIMEOUT := --timeout 900
RAY_UP_TIMEOUT := --timeout 1800

# Material announces its successor in every build.
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.PHONY: setup demo check test test-benchmarks test-hosts test-ray-up lint docs docs-serve format clean

setup: .venv/ready

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| (echo "Python 3.11 or 3.12 is needed; choose one with: make PYTHON=python3.11"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	-$(BIN)/finetune-cnn compile
	@touch $@

demo: setup
	$(BIN)/python -m experiments.demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MKDOCS) build --strict --quiet

docs: setup
	$(MKDOCS) build --strict

docs-serve: setup
	$(MKDOCS) serve

check: lint
	$(PYTEST_PARALLEL) -m "not ray and not slow and not root and not benchmark"

# Both parts always run, so that one failure does not hide another, and the last lines say which part failed.
test: lint
	@status=0; quick="passed"; ray="passed"; \
	$(PYTEST_PARALLEL) -m "not ray and not root and not benchmark" || { status=1; quick="FAILED"; }; \
	$(PYTEST_PARALLEL) $(RAY_TIMEOUT) -m "ray and not root and not benchmark" || { status=1; ray="FAILED"; }; \
	echo "tests without Ray: $$quick"; \
	echo "tests with Ray: $$ray"; \
	exit $$status

test-benchmarks: setup
	$(PYTEST) $(RAY_TIMEOUT) -m benchmark

test-hosts: setup
	$(PYTEST) $(RAY_TIMEOUT) -m "root and not launcher"

test-ray-up: setup
	$(PYTEST) $(RAY_UP_TIMEOUT) -m launcher

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs site

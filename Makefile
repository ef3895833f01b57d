# make demo: the whole road on the default corpus. make test: linters and the test suite. make test-hosts: the tests
# on separate hosts, in network namespaces, as root. make test-ray-up: `ray up` over ssh among them, minutes long.
# All set themselves up in .venv on first use.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-hosts test-ray-up lint format clean

setup: .venv/ready

.venv/ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| (echo "Python 3.11 or 3.12 is needed; say which: make PYTHON=python3.11"; exit 1)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

demo: setup
	$(BIN)/python -m experiments.demo

test: setup lint
	$(BIN)/python -m pytest -m "not root"

test-hosts: setup
	$(BIN)/python -m pytest -m "root and not launcher"

test-ray-up: setup
	$(BIN)/python -m pytest -m launcher

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs

# Everything one does with a checkout. Each target that needs `.venv` makes it first; a second time costs nothing.
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, pip.conf ...) reach it untouched.

PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV_PYTHON := .venv/bin/python
TEST = OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench wheel-check docs pins clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'
	@echo
	@echo "  make test ARGS='-k blend' passes ARGS to pytest; JOBS=4 runs four test processes"
	@echo "  make PYTHON=python3.12 names the Python (3.11 or newer) that makes .venv"
	@echo "  ENS_TORCH_INDEX=URL names the index that torch comes from (CPU builds, a certain CUDA)"

setup: ## make .venv at the versions of constraints.txt
	@$(PYTHON) tools/setup_env.py

demo: setup ## train, tune and blend small data, start to end
	@$(VENV_PYTHON) tools/demo.py $(ARGS)

test: setup ## run all tests
	$(TEST)

lint: setup ## ruff, formatting and types
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

format: setup ## mend what ruff can mend
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

bench: setup ## run every benchmark of tools/bench/
	@for script in tools/bench/*.py; do echo "== $$script"; $(VENV_PYTHON) "$$script" || exit; done

wheel-check: setup ## build the wheel, install it elsewhere and use it
	@$(VENV_PYTHON) tools/wheel_check.py

docs: setup ## renew the generated parts of docs/, and their pictures
	@$(VENV_PYTHON) tools/make_docs.py
	@$(VENV_PYTHON) tools/make_pictures.py
	@$(VENV_PYTHON) tools/page_pictures.py

pins: ## renew constraints.txt
	@$(PYTHON) tools/renew_pins.py

clean: ## remove caches and build output (keeps outputs/ and .venv)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find ensemble recipes tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv (keeps outputs/)
	rm -rf .venv .venv.lock

# Everything runs from a fresh clone: each target makes .venv and installs what it needs, once per pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCAL := $(VENV)/.installed-local
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

.PHONY: demo
demo: $(LOCAL) ## Train a teacher, a student, and a student with CrossKD through the service
	@$(BIN)/crosskd demo

.PHONY: up
up: $(LOCAL) ## Run the service in the foreground; state in ./.crosskd
	@$(BIN)/crosskd up

# Bytecode is kept, also where the shell says otherwise: the tests start hundreds of processes with the same imports.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# Half as many processes again as cores, of one thread each, since a third of the time they wait: for leases, for
# processes that start, for servers. A file's tests stay together, since they share what it starts. The longest files
# come first (tests/conftest.py), where pytest-xdist would begin with those that have the most tests. Under faults a
# stack waits for three quarters of the time; two, and no more, leave it the time to keep its leases.
WORKERS := $(shell $(PYTHON) -c "import os; print(min(6, max(2, (os.cpu_count() or 1) * 3 // 2)))")
SPREAD := OMP_NUM_THREADS=1 $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(DEV) ## Run the tests
	$(SPREAD)

# A real MLflow server, and Trackio, for tests of trackers. They want older versions of what we use, so each has an
# environment of its own.
APART := $(VENV)/mlflow/.installed $(VENV)/trackio/.installed
$(VENV)/mlflow/.installed: WANTED := 'mlflow>=3.1,<4'
$(VENV)/trackio/.installed: WANTED := 'trackio>=0.40,<1' 'pydantic-settings>=2.10'
$(APART): | $(BIN)/python
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet $(WANTED)
	@touch $@

.PHONY: test-slow
test-slow: $(DEV) $(APART) ## Run the tests that take minutes
	$(SPREAD) -m slow --timeout 1800

.PHONY: test-faults
test-faults: $(DEV) ## Run the service under injected faults: docs/reliability.md
	OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder -m faults tests/faults

.PHONY: test-browser
test-browser: $(DEV) ## Try the pages in Chromium (Debian: apt-get install chromium)
	OMP_NUM_THREADS=1 $(PYTEST) -m browser --timeout 900 tests/browser

.PHONY: lint
lint: $(DEV) ## Check style, types and import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

UV_LOCK := $(VENV)/lock/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" --constraint $(VENV)/installed.txt

.PHONY: lock
lock: $(DEV) ## Write deploy/lock: what the images install, in the versions that are installed, and so tested, here
	$(BIN)/python -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet uv
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	$(UV_LOCK) --extra api --output-file deploy/lock/api.txt pyproject.toml
	$(UV_LOCK) --extra worker --extra timm --extra detr --output-file deploy/lock/worker.txt pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])' \
	  | $(UV_LOCK) --output-file deploy/lock/build.txt -

.PHONY: pins
pins: ## Ask the registry for the newest digests of the images that are built on or run, and write them (needs docker)
	$(PYTHON) deploy/pin_images.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "CrossKD needs Python 3.11 or newer, and $(PYTHON) is not." >&2; \
	  echo "Name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The stamp, not the folder, says that an installation was finished.
$(LOCAL): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[local]'
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(LOCAL) $@

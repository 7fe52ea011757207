# Everything installs what it needs; on a fresh machine `make demo` and `make test` are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := src tests benchmarks

.PHONY: demo test test-fast check format clean

demo: $(READY)  ## install, then the main job on synthetic images, ending in a report
	$(BIN)/dermdistill demo --output runs/demo

test: $(READY)  ## every test; those that need the real images skip where the images are missing
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test-fast: $(READY)  ## the tests that take seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

check: $(READY)  ## style and the direction of imports
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports

format: $(READY)  ## what `check` asks for, as far as a tool can do it
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[lite,explain,dev]'
	touch $@

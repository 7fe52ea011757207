# Everything installs what it needs; on a fresh machine `make demo` and `make test` are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := src tests benchmarks

# One after the other: two of them ask for versions of typing-extensions that exclude each other,
# which pip refuses in one command and both bear in practice.
TOOLCHAINS := openvino ncnn coreml litert executorch

.PHONY: demo test test-fast check format toolchains clean

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

toolchains: $(READY)  ## what writes and runs every format of a bundle (4 GB); Node's for its tests
	for extra in $(TOOLCHAINS); do \
		$(BIN)/python -m pip install --quiet --editable ".[$$extra]" || exit 1; \
	done
	npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[lite,explain,dev]'
	touch $@

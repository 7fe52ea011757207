# Everything installs what it needs; on a fresh machine `make demo` and `make test` are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := src tests benchmarks
APP := src/dermdistill/app/static/index.html
# Without Node the app's tests skip, and all else is tested.
BUILT := $(if $(shell command -v npm),$(APP))

# One after the other: two of them ask for versions of typing-extensions that exclude each other,
# which pip refuses in one command and both bear in practice.
TOOLCHAINS := openvino ncnn coreml litert executorch

.PHONY: app demo test test-fast check format toolchains clean

demo: $(READY)  ## install, then the main job on synthetic images, ending in a report
	$(BIN)/dermdistill demo --output runs/demo

app: $(APP)  ## the front end, into the Python package (needs Node 20 or later)

test: $(READY) $(BUILT)  ## every test; those that need the real images skip where the images are missing
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

toolchains: $(READY)  ## what writes and runs every format of a bundle (4 GB); what Node's and C++'s tests need
	for extra in $(TOOLCHAINS); do \
		$(BIN)/python -m pip install --quiet --editable ".[$$extra]" || exit 1; \
	done
	npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund
	-tests/cpp/headers.sh $(VENV)/include/onnxruntime

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(APP): app/node_modules/.ready $(wildcard app/*.mjs app/*.json app/src/* app/messages/* app/public/*) \
		src/dermdistill/bundle/preprocess.mjs
	cd app && node build.mjs

app/node_modules/.ready: app/package-lock.json
	cd app && npm ci --no-audit --no-fund
	touch $@

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[lite,explain,app,prune,dev]'
	touch $@

# make demo   own virtual environment, install, denoise a noisy photo
# make test   own virtual environment, install, run the tests (JOBS=8 for more processes)
# make lint   style and types
# make gate   the ratios of speed that must hold, in about a minute

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*.* csrc/cpu/*.* csrc/cuda/*.*)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint gate clean
.DELETE_ON_ERROR:

demo: $(VENV)/core.installed
	$(BIN)/python examples/demo.py out

test: $(VENV)/dev.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/dev.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gate: $(VENV)/dev.installed
	$(BIN)/python -m benchmarks.gate

clean:
	rm -rf modnas_fast/_engine*.so modnas_fast/_engine*_missing.txt
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "modnas-fast needs Python 3.10 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.installed: $(BIN)/python $(SOURCES)
	$(PIP) --editable .
	touch $@

$(VENV)/dev.installed: $(BIN)/python $(SOURCES)
	$(PIP) --editable '.[dev]'
	touch $@ $(VENV)/core.installed

# Everything runs from .venv, which `make setup` makes; nothing else has to be there but Python,
# git and a C compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# Who sings, speaks and shows pages in the tests; tests that lack one of them are skipped.
PROGRAMS := festival espeak-ng ffmpeg chromium
PACKAGES := $(PROGRAMS) festvox-kallpc16k

.PHONY: setup system demo test soak bench lint format build clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# For root on Debian and its kin; elsewhere install these programs as your system does.
system:
	for program in $(PROGRAMS); do command -v $$program >/dev/null || missing=yes; done; \
	if [ "$$missing" ]; then apt-get update -q && DEBIAN_FRONTEND=noninteractive \
	  apt-get install -y -q --no-install-recommends $(PACKAGES); fi

demo: setup
	$(BIN)/python examples/demo.py out/demo

test: setup
	# One thread each: threads that wait for one another on busy cores cost more than they bring.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# Everything that can go wrong, so many times as often as in `make test`: some hours.
SOAK ?= 20
soak: setup
	JUKEBOX_SOAK=$(SOAK) OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest -n $(WORKERS) --timeout 36000 tests/faults

# About 40 minutes on two cores that have nothing else to do; goes on where it was stopped.
bench: setup
	$(BIN)/python benchmarks/bench.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: setup
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) out build dist *.egg-info

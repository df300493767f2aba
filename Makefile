# make demo   virtual environment, installation, and the comparison on images that come with scikit-image: about 10 minutes
# make test   virtual environment, installation, and the tests
# make test-paddle   the tests of octavize.paddle, in a virtual environment with PaddlePaddle and without torch
# make test-lowest   the same with the lowest torch and torchvision that pyproject.toml declares
# make site   the documentation as a site, in site/; to read and search it: python3 -m http.server -d site
# make dist   wheel and source archive in dist/; the wheel is installed in a new virtual environment and run
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
PADDLE ?= .venv-paddle
DIST ?= .venv-dist
DOCS ?= .venv-docs
BIN := $(VENV)/bin
CORES := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-paddle test-all lint types types-paddle format dist site clean

help:
	@sed -n 's/^# //p' Makefile

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/octavize compare --recipe quick --out runs/demo

## One process a core, one thread a process: more threads than cores are slower, not faster. Each process takes
## tests that follow one another, so that what a file's tests share is made once.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(CORES) --dist worksteal -m 'not slow'

test-all: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(CORES) --dist worksteal

## Of pyproject.toml: "torch>=2.9.1" becomes torch==2.9.1.*
$(LOWEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' \
		$$(sed -nE 's/.*"(torch)>=([0-9.]+)".*/\1==\2.*/p; s/.*"(torchvision)>=([0-9.]+)".*/\1==\2.*/p' pyproject.toml)
	@touch $@

test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest -n $(CORES) --dist worksteal -m 'not slow'

$(PADDLE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(PADDLE)
	$(PADDLE)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev-paddle]'
	@touch $@

test-paddle: $(PADDLE)/.installed
	OMP_NUM_THREADS=1 $(PADDLE)/bin/pytest -n $(CORES) --dist worksteal -m 'not slow' tests/paddle

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/pyright --pythonpath $(BIN)/python

types-paddle: $(PADDLE)/.installed $(VENV)/.installed
	$(BIN)/pyright --pythonpath $(PADDLE)/bin/python --project pyright-paddle.json

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## Named networks need torch; the command is run elsewhere, so that only what was installed can be found.
dist: $(VENV)/.installed
	rm -rf dist $(DIST)
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet --disable-pip-version-check "$$(echo dist/*.whl)[cli,models]"
	octavize="$(abspath $(DIST))/bin/octavize" && cd / && $$octavize --version && $$octavize models

$(DOCS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev-docs]'
	@touch $@

site: $(DOCS)/.installed
	PATH="$(abspath $(DOCS))/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) $(LOWEST) $(PADDLE) $(DIST) $(DOCS) dist site runs

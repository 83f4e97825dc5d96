# The environment in .venv, the install, and the jobs a person types. Every target works on a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RECIPE ?= moco_v2

.PHONY: help train test test-peers test-slow check results clean

help:  ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@

train: $(BIN)/.installed  ## Install, then train MoCo v2 on the built-in data (RECIPE=simclr for another)
	$(BIN)/python tools/train.py --gin gin/$(RECIPE).gin

test: $(BIN)/.installed  ## Install, then the tests
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-peers: $(BIN)/.installed  ## The losses against other libraries', which are installed
	$(BIN)/python -m pip install --quiet -e '.[peers]'
	$(BIN)/python -m pytest -n 2 tests/losses/test_peers.py

test-slow: $(BIN)/.installed  ## The tests that take minutes: a short training run of every variant
	$(BIN)/python -m pytest -n 2 --maxschedchunk 1 -m "slow and not alone" --durations=15
	$(BIN)/python -m pytest -n 0 -m "slow and alone" --durations=15

check: $(BIN)/.installed  ## Style and types
	$(BIN)/python -m pip install --quiet -e '.[dev,peers]'
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

results: $(BIN)/.installed  ## The table of the README: every recipe at three seeds; resumable
	$(BIN)/python tools/results.py

clean:  ## Remove the environment and what tests leave behind
	rm -rf $(VENV) .pytest_cache .hypothesis .ruff_cache *.egg-info

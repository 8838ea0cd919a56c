PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help install install-tune demo test test-slow test-faults lint bench bench-peers peers reproduce report

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Create .venv with the pinned packages.

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	touch $@

install-tune: install  ## Install Optuna, for experiments/tune.py.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-tune.txt

demo: install  ## Train TRPO on Swimmer with Table 2's settings (5 to 15 minutes); OUT=DIR.
	$(BIN)/python experiments/train.py --task=swimmer --preset=paper --seed=1 --out=$(OUT) \
		$(if $(wildcard $(OUT)/config.json),--resume)

test: install  ## Run the tests but slow ones and faults (6 to 9 minutes).
	$(BIN)/python -m pytest --numprocesses=logical --dist=worksteal

test-slow: install  ## Run the slow tests, one at a time: some measure memory.
	$(BIN)/python -m pytest -m slow

test-faults: install  ## Kill, damage and starve runs; each must end with the same bits.
	$(BIN)/python -m pytest -m faults --numprocesses=2 --dist=worksteal

lint: install  ## Check format, style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## Measure speed and memory, as ratios of one run (about 15 minutes).
	$(BIN)/python experiments/bench.py

peers: .venv-peers/.installed  ## Install SB3-contrib, to compare with, in a venv of its own.
.venv-peers/.installed: requirements-peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	touch $@

bench-peers: install peers  ## Compare the speed with SB3-contrib's TRPO.
	$(BIN)/python experiments/bench.py --peer_python=.venv-peers/bin/python

reproduce: install peers  ## Make every run that is missing, two at a time (days; Ctrl-C saves).
	$(BIN)/python experiments/reproduce.py --run --jobs=2

report: install  ## Draw all figures and write all tables from results/ (minutes).
	$(BIN)/python experiments/reproduce.py --report

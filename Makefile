PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

PAPER_RUNS := \
	--runs='Cart-pole/single path=results/cartpole/single_path/seed_*' \
	--runs='Cart-pole/vine=results/cartpole/vine/seed_*' \
	--runs='Swimmer/single path=results/swimmer/single_path/seed_*' \
	--runs='Swimmer/vine=results/swimmer/vine/seed_*' \
	--runs='Hopper/single path=results/hopper/single_path/seed_*' \
	--runs='Hopper/vine=results/hopper/vine/seed_*' \
	--runs='Walker/single path=results/walker/single_path/seed_*' \
	--episode_length=Hopper,Walker

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint bench bench-peers figures

help:  ## Show the targets.
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 14

install: $(VENV)/.installed  ## Create .venv with the pinned packages.

$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --editable .
	touch $@

demo: install  ## Train TRPO on Swimmer with Table 2's settings (5 to 10 minutes); OUT=DIR.
	$(BIN)/python experiments/train.py --task=swimmer --preset=paper --seed=1 --out=$(OUT) \
		$(if $(wildcard $(OUT)/config.json),--resume)

test: install  ## Run the tests (about 9 minutes).
	$(BIN)/python -m pytest --numprocesses=auto --dist=worksteal

test-slow: install  ## Run the slow tests.
	$(BIN)/python -m pytest -m slow

lint: install  ## Check format, style and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: install  ## Measure speed and memory, as ratios of one run (about 15 minutes).
	$(BIN)/python experiments/bench.py

bench-peers: install  ## Compare with SB3-contrib's TRPO, in a venv of its own.
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-peers.txt
	$(BIN)/python experiments/bench.py --peer_python=.venv-peers/bin/python

figures: install  ## Draw the learning curves in results/ from their CSVs.
	$(BIN)/python experiments/figure4.py --plot --budget=medium
	$(BIN)/python experiments/atari.py --plot --budget=medium
	$(foreach x,iteration env_steps,$(BIN)/python experiments/plot.py $(PAPER_RUNS) \
		--x=$(x) --y=reward_per_step --out=results/locomotion_$(x).png &&) true
	$(BIN)/python experiments/plot.py --runs='Hopper-v5/TRPO with GAE=results/Hopper-v5/gae/seed_*' \
		--x=env_steps --y=return_recent --out=results/Hopper-v5.png

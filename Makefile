# make quickstart [LLM=gemma|llama]   install, train stage 1 on the embedded default, evaluate, show
# make test                           install, lint, run the tests
PYTHON ?= python3
LLM ?= gemma

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt
CONFIG := train_configs/minigpt4_tiny_$(LLM)_stage1_pretrain.yaml
SHAPES := output/shapes

.PHONY: quickstart test

quickstart: $(VENV)/.installed $(SHAPES)/.made
	$(PY) train.py --cfg-path $(CONFIG)

test: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	@touch $@

$(SHAPES)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	$(PY) -m dataset.shapes.make_shards --out $(SHAPES)
	@touch $@

# make quickstart [LLM=gemma|llama]   install, train both stages on the embedded default, evaluate, show
# make test                           install, lint, run the tests
# make test-oldest                    the same with the oldest transformers that pyproject.toml allows
PYTHON ?= python3
LLM ?= gemma

VENV := .venv
CONSTRAINTS := constraints.txt
REQUIREMENTS = pyproject.toml constraints-shared.txt $(CONSTRAINTS)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
CONFIGS := train_configs/minigpt4_tiny_$(LLM)
SHAPES := output/shapes
ALIGN := output/shapes_align

.PHONY: quickstart test test-oldest

quickstart: $(VENV)/.installed $(SHAPES)/.made $(ALIGN)/.made
	$(PY) train.py --cfg-path $(CONFIGS)_stage1_pretrain.yaml
	$(PY) train.py --cfg-path $(CONFIGS)_stage2_finetune.yaml

test: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pytest

test-oldest:
	$(MAKE) test VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(REQUIREMENTS)
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python $(REQUIREMENTS)
	$(PIP) -e '.[dev]'
	@touch $@

$(SHAPES)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	$(PY) -m dataset.shapes.make_shards --out $(SHAPES)
	@touch $@

$(ALIGN)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	$(PY) -m dataset.shapes.make_align --out $(ALIGN)
	@touch $@

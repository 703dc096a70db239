# make quickstart [LLM=gemma|llama]   install, train both stages on the embedded default, evaluate, show
# make test                           install, lint, run the tests
# make img2dataset                    the downloader of stage 1's pictures, in an environment of its own
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

IMG2DATASET := .venv-img2dataset

.PHONY: quickstart img2dataset test test-oldest

quickstart: $(VENV)/.installed $(SHAPES)/.made $(ALIGN)/.made
	$(PY) train.py --cfg-path $(CONFIGS)_stage1_pretrain.yaml
	$(PY) train.py --cfg-path $(CONFIGS)_stage2_finetune.yaml

img2dataset: $(IMG2DATASET)/.installed

test: $(VENV)/.installed-dev
	-$(MAKE) img2dataset  # without it, its one test is skipped
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile  # two at a time, each with one thread

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

$(IMG2DATASET)/.installed: dataset/requirements-img2dataset.txt
	$(PYTHON) -m venv $(IMG2DATASET)
	$(IMG2DATASET)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(SHAPES)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	$(PY) -m dataset.shapes.make_shards --out $(SHAPES)
	@touch $@

$(ALIGN)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	$(PY) -m dataset.shapes.make_align --out $(ALIGN)
	@touch $@

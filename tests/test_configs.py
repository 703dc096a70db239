"""Every YAML in the repository parses, and builds once its parts are tiny."""

import argparse
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minigpt4.common.config import CONFIG_DIR, Config, bind, plain
from minigpt4.common.registry import registry
from minigpt4.datasets.builders import build_datasets
from minigpt4.runners.settings import RunSettings
from tests.conftest import golden_model_config

ROOT = Path(__file__).parent.parent
CONFIGS = sorted([*ROOT.glob("train_configs/*.yaml"), *ROOT.glob("eval_configs/*.yaml")])
MODEL_TYPES = registry.get_model_class("minigpt4").PRETRAINED_MODEL_CONFIG_DICT
# What the golden parts replace; whatever else a config says stays.
PARTS = (
    *("vit_model", "vit_weights", "vit_kwargs", "q_former_model", "q_former_kwargs", "num_query_token"),
    *("llama_model", "llm_precision", "vit_precision", "image_size"),
)


def load(path: Path, *options: str) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=list(options)))


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 4


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_config_builds_with_tiny_parts(path: Path, tmp_path: Path) -> None:
    cfg = load(path)
    golden = golden_model_config()
    model_cfg = plain(cfg.model_cfg) | {key: golden[key] for key in PARTS}
    model_cfg.pop("ckpt", None)
    if not model_cfg.get("has_qformer", True):
        model_cfg["patches_per_token"] = 1
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(model_cfg, device="cpu")
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        "llama_proj.weight",
        "llama_proj.bias",
    ]
    if path.parent.name == "train_configs":
        settings = RunSettings(**bind(RunSettings, cfg.run_cfg, where="run"))
        registry.get_runner_class(settings.runner)
        registry.get_lr_scheduler_class(settings.lr_sched)
        shard = tmp_path / "00000.tar"
        shard.touch()
        for name in cfg.datasets_cfg:
            splits = {"train": str(shard), **{split: str(shard) for split in settings.test_splits}}
            cfg.datasets_cfg[name].build_info.storage = splits
        for builder, datasets in build_datasets(cfg.datasets_cfg, seed=0).values():
            assert builder.batch_size >= 1
            assert set(settings.train_splits + settings.test_splits) <= set(datasets)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_a_config_says_how_to_run_it(path: Path) -> None:
    header = path.read_text().split("\nmodel:")[0]
    script = "train.py" if path.parent.name == "train_configs" else "demo.py"
    assert f"python {script} --cfg-path {path.relative_to(ROOT).as_posix()}" in header
    assert "Hardware:" in header


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_model_defaults(model_type: str) -> None:
    path = registry.get_model_class("minigpt4").default_config_path(model_type)
    model = OmegaConf.load(path).model
    assert registry.get_model_class(model.arch)


def test_every_default_file_is_reachable() -> None:
    on_disk = {p.relative_to(CONFIG_DIR).as_posix() for p in CONFIG_DIR.glob("models/*.yaml")}
    assert on_disk == set(MODEL_TYPES.values())


def test_swapping_the_backbone_is_one_line() -> None:
    gemma = load(
        ROOT / "train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml", "model.model_type=tiny_llama"
    )
    llama = load(ROOT / "train_configs/minigpt4_tiny_llama_stage1_pretrain.yaml")
    assert plain(gemma.model_cfg) == plain(llama.model_cfg)

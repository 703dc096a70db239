"""The YAML files of the original MiniGPT-4 load unchanged; ours say the same where they mean the same."""

import re

import pytest

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import parse
from minigpt4.datasets.builders import build_datasets
from minigpt4.processors.base_processor import processors_of
from minigpt4.runners.settings import RunSettings
from tests.support import GOLDEN, ROOT
from tests.support.runs import load

# Its keys, values and structure, written down anew; the data's and weights' paths are its placeholders.
ORIGINAL = ROOT / "tests" / "original_configs"
STEMS = ("minigpt4", "minigpt4_llama2")
TRAIN = [f"{stem}_{stage}" for stem in STEMS for stage in ("stage1_pretrain", "stage2_finetune")]
EVAL = [f"{stem}_eval" for stem in (*STEMS, "minigptv2")]


def original(name: str, *options: str) -> Config:
    return load(ORIGINAL / f"{name}.yaml", *options)


@pytest.mark.parametrize("name", TRAIN + EVAL)
def test_a_model_binds_and_what_is_to_be_set_is_told(name: str) -> None:
    """An unknown key would be told first, and the checkpoint once there is a language model."""
    cfg = original(name)
    assert cfg.model_cfg.get("has_qformer", True) == ("llama2" not in name and "v2" not in name)
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    with pytest.raises(ConfigError, match=r"^model\.llama_model is 'please set this value .*: please set it"):
        model_class.from_config(cfg.model_cfg, device="cpu")
    if "stage1" not in name:
        cfg = original(name, f"model.llama_model={GOLDEN / 'llm'}")
        message = re.escape(f"model.ckpt is {cfg.model_cfg.ckpt!r}: please set it to a real path")
        with pytest.raises(ConfigError, match=f"^{message}"):
            model_class.from_config(cfg.model_cfg, device="cpu")


@pytest.mark.parametrize("name", TRAIN)
def test_every_key_of_the_run_binds_and_numbers_are_numbers(name: str) -> None:
    settings = parse(RunSettings, original(name).run_cfg, "run")
    assert settings.init_lr == (1e-4 if "stage1" in name else 3e-5)
    assert registry.get_task_class(settings.task)
    assert registry.get_runner_class(settings.runner)
    assert registry.get_lr_scheduler_class(settings.lr_sched)


@pytest.mark.parametrize("name", TRAIN)
def test_every_key_of_the_datasets_binds(name: str) -> None:
    cfg = original(name)
    for dataset, section in cfg.datasets_cfg.items():
        builder = registry.get_builder_class(dataset).from_config(dataset, section)
        assert builder.vis_processor("train").image_size == 224
        assert builder.text_processor("train").max_words == 50
    first = next(iter(cfg.datasets_cfg))
    with pytest.raises(ConfigError, match=rf"^datasets\.{first}\.build_info\.storage is .*please set it"):
        build_datasets(cfg.datasets_cfg)


@pytest.mark.parametrize("name", EVAL)
def test_an_evaluations_processors(name: str) -> None:
    cfg = original(name)
    images, _ = processors_of(plain(cfg.datasets_cfg), "eval", cfg.model_cfg.image_size)
    assert type(images) is registry.get_processor_class("blip2_image_eval")


@pytest.mark.parametrize("name", TRAIN)
def test_ours_have_the_originals_values(name: str) -> None:
    """Beside the output folder, what chooses the device, and the tracker."""
    ours, theirs = load(ROOT / f"train_configs/{name}.yaml"), original(name)
    assert bind_model(ours) == bind_model(theirs)
    settings = vars(parse(RunSettings, ours.run_cfg, "run"))
    wanted = vars(parse(RunSettings, theirs.run_cfg, "run"))
    others = {"output_dir", "device", "distributed", "wandb_log", "job_name"}
    assert {key for key in wanted if settings[key] != wanted[key]} <= others
    assert ours.datasets_cfg.keys() == theirs.datasets_cfg.keys()
    for dataset, section in theirs.datasets_cfg.items():
        for key in ("batch_size", "vis_processor", "sample_ratio"):
            assert ours.datasets_cfg[dataset].get(key) == section.get(key)


def bind_model(cfg: Config) -> dict:
    """What the model is built from, but for the paths of weights."""
    return {k: v for k, v in plain(cfg.model_cfg).items() if k not in ("ckpt", "llama_model")}

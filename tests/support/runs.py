"""Short training runs of the golden model on shapes."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.runners.reporting import plots, reporter
from minigpt4.tasks import setup_task
from tests.support.golden import golden_model_config


def load(path: Path, *options: str) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=list(options)))


def run_config(shards: Path, output: Path, **run: Any) -> Config:
    """The config of a short run of the golden model on shapes, by way of a YAML file."""
    model = golden_model_config(model_type="pretrain_llama2")
    del model["ckpt"]
    processors = {
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
        "text_processor": {"train": {"name": "blip_caption"}},
    }
    storage = {"train": f"{shards}/train/{{00000..00001}}.tar", "test": f"{shards}/test/00000.tar"}
    settings = {
        "task": "image_text_pretrain",
        "max_epoch": 2,
        "iters_per_epoch": 4,
        "init_lr": 0.01,
        "log_freq": 2,
        "num_workers": 0,
        "device": "cpu",
        "amp": False,
        "output_dir": str(output),
    }
    content = {
        "model": model,
        "datasets": {"cc_sbu": {"batch_size": 4, "build_info": {"storage": storage}, **processors}},
        "run": settings | run,
    }
    path = shards / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return Config(argparse.Namespace(cfg_path=path, options=[]))


def train(cfg: Config) -> tuple[dict[str, Any], Any]:
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device=cfg.run_cfg.device)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    return runner.train(), runner


@contextmanager
def drawing_nothing() -> Iterator[None]:
    """Most of a short run's time would go into drawing."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((reporter, "draw_loss"), (plots, "draw_samples")):
            patch.setattr(module, name, lambda _, path, *more: path.write_bytes(b"a picture"))
        yield


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def mixed_config(shapes: Path, output: Path, **run: Any) -> Any:
    """Two datasets of different batch sizes, one with a missing shard; a prompt drawn for each batch."""
    cfg = run_config(shapes, output, **{"log_freq": 1, "num_workers": 2, "iters_per_epoch": 6} | run)
    prompts = shapes / "prompts.txt"
    prompts.write_text("".join(f"<Img><ImageHere></Img> Question {n}\n" for n in range(9)))
    cfg.config.model.prompt_path = str(prompts)
    first = cfg.config.datasets.cc_sbu
    cfg.config.datasets.laion = dict(first) | {"batch_size": 3, "sample_ratio": 2}
    more = [f"{shapes}/more/{{00000..00002}}.tar", f"{shapes}/more/missing.tar"]
    cfg.config.datasets.laion.build_info = {"storage": {"train": more}}
    return cfg

"""What the tests of cached features share: YAMLs of small runs on pictures and on caches."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands.cache_features import cache_features
from minigpt4.common.config import Config


def draw_shards(folder: Path) -> dict[str, str]:
    """Three shards of drawn shapes to train on, one to test on: the `storage` of both."""
    write_split(folder / "train", "train", 30, seed=0, samples_per_shard=10)
    write_split(folder / "test", "test", 6, seed=0, samples_per_shard=6)
    return {"train": f"{folder}/train/{{00000..00002}}.tar", "test": f"{folder}/test/00000.tar"}


def config(path: Path, storage: Any, model: dict[str, Any], size: int = 56, **datasets: Any) -> Path:
    """A YAML of a run on shards of pictures, or, where `storage` is a cache, on that."""
    name = "cached_features" if isinstance(storage, Path) else "cc_sbu"
    section = {
        "batch_size": 4,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": size}},
        "text_processor": {"train": {"name": "blip_caption"}},
        "build_info": {"storage": str(storage) if isinstance(storage, Path) else storage},
    }
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 2,
        "iters_per_epoch": 4,
        "init_lr": 0.01,
        "log_freq": 1,
        "num_workers": 0,
        "device": "cpu",
        "output_dir": str(path.with_suffix("")),
        "test_splits": ["test"],
    }
    content = {"model": model, "datasets": {name: section | datasets}, "run": run}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def load(path: Path, *options: str) -> Config:
    return Config(argparse.Namespace(cfg_path=path, options=list(options)))


def cache(cfg_path: Path, out: Path, *options: str, devices: tuple[str, ...] = ("cpu",)) -> Path:
    cache_features(argparse.Namespace(cfg_path=cfg_path, options=list(options), out=out, devices=devices))
    return out

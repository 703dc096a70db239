"""What a run keeps and is told: its folder, log, YAML and prompts."""

import argparse
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml

from dataset.shapes.make_shards import write_split
from minigpt4.commands.train import train
from minigpt4.common.config import Config
from minigpt4.common.logger import JsonLines
from minigpt4.prompts.requests import read_requests
from minigpt4.prompts.sample import Batch
from minigpt4.runners.reporting import plots, reporter
from minigpt4.runners.reporting.plots import draw_loss
from minigpt4.tasks import setup_task
from minigpt4.weights import fetch
from tests.fuzz import data
from tests.support.golden import build_golden_model
from tests.support.runs import run_config


@cache
def draw_shapes(folder: Path) -> Path:
    write_split(folder / "train", "train", 16, seed=0, samples_per_shard=8)
    write_split(folder / "test", "test", 4, seed=0, samples_per_shard=4)
    return folder


def train_into(output: Path, epochs: int) -> None:
    shapes = next(parent for parent in output.parents if (parent / "shapes").is_dir()) / "shapes"
    path = shapes / "run.yaml"
    args = argparse.Namespace(
        cfg_path=str(path), options=[f"run.output_dir={output}", f"run.max_epoch={epochs}"]
    )
    # Drawing would take most of the time.
    no_loss = patch.object(reporter, "draw_loss", write_no_picture)
    with no_loss, patch.object(plots, "draw_samples", write_no_picture):
        train(argparse.Namespace(**vars(args), resume="auto"))


def write_no_picture(_: Any, path: Path, *more: Any) -> None:
    path.write_bytes(b"a picture")


def write_run(folder: Path) -> None:
    shapes = draw_shapes(folder.parent / "shapes")
    cfg = run_config(shapes, folder / "run", iters_per_epoch=2, max_epoch=1, log_freq=1)
    (shapes / "run.yaml").write_text(yaml.safe_dump(cfg.to_dict()))
    train_into(folder / "run", 1)
    for path in list((folder / "run").glob("checkpoint_*.pth")):
        if path.name != "checkpoint_0.pth":
            path.unlink()


def read_run(folder: Path) -> None:
    train_into(folder / "run", 2)


def write_log(folder: Path) -> None:
    log = JsonLines(folder / "log.jsonl")
    for step in range(1, 5):
        log.write(step=step, epoch=0, loss=1.0 / step, lr=0.1, grad_norm=1.0, bad={"broken image": 1})
    log.write(step=4, epoch=0, valid_loss=0.5)


def read_log(folder: Path) -> None:
    log = JsonLines(folder / "log.jsonl")
    log.drop_after(3)
    draw_loss(log.read(), folder / "loss.png", 2)


def write_yaml(folder: Path) -> None:
    data.write_shards(folder)
    section = {"batch_size": 2, "build_info": {"storage": {"train": "{00000..00001}.tar"}}, **data.PROCESSORS}
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 1,
        "iters_per_epoch": 2,
        "output_dir": "output",
        "seed": 1,
    }
    model = {
        "arch": "minigpt4",
        "model_type": "tiny_gemma",
        "prompt_path": "",
        "max_txt_len": 32,
        "end_sym": "###",
    }
    content = {
        "model": model,
        "datasets": {"cc_sbu": section},
        "run": run | {"beta2": 0.9, "init_lr": 0.01, "amp": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    (folder / "good.json").unlink()


def read_yaml(folder: Path) -> None:
    cfg = Config(argparse.Namespace(cfg_path="run.yaml", options=[]))
    cfg.run_settings()
    cfg.pretty_print()
    setup_task(cfg).build_datasets(cfg)
    for source in fetch.find_sources(cfg):
        fetch.examine(source, download=False)


def write_prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("<Img><ImageHere></Img> Describe it.\n<Img><ImageHere></Img> What?\n")


@torch.no_grad()
def read_prompts(folder: Path) -> None:
    read_requests("prompts.txt")
    model = build_golden_model(prompt_path="prompts.txt")
    model(Batch.from_mapping({"image": torch.zeros(1, 3, 56, 56, dtype=torch.uint8), "answer": ["a dog"]}))

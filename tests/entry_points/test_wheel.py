"""An installed wheel trains, evaluates and chats from any folder: it needs nothing of the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from dataset.shapes.make_shards import write_split
from tests.support import ROOT

# What runs with nothing but the wheel: two commands, and a chat as the README shows it.
SCRIPT = """
import sys

import minigpt4
from minigpt4.commands import main

assert minigpt4.__file__.startswith(sys.argv[1]), minigpt4.__file__
checkpoint = "model.ckpt=job/checkpoint_latest.pth"
for command in (["train"], ["evaluate", "--split", "test", "--out", "report.json", "--options", checkpoint]):
    sys.argv = ["minigpt4", command[0], "--cfg-path", "run.yaml", *command[1:]]
    main()

from argparse import Namespace

from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation

cfg = Config(Namespace(cfg_path="run.yaml", options=[checkpoint]))
model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, device="cpu").eval()
processor = registry.get_processor_class("blip2_image_eval").from_config({"image_size": 56})
chat, dialogue, images = Chat(model, processor), Conversation(model.template), []
chat.upload_img(Image.new("RGB", (56, 56), "red"), dialogue, images)
chat.encode_img(images)
chat.ask("What is this?", dialogue)
print("prompt:", model.prompt_list[0])
print("answer:", len(chat.answer(dialogue, images, max_new_tokens=5)[0]) > 0)
"""


def build_wheel(folder: Path) -> Path:
    """A folder with the wheel's content, built from a copy of what goes into it."""
    pytest.importorskip("setuptools", minversion="77")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "minigpt4", folder / "minigpt4", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "built", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "built").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def write_config(folder: Path) -> None:
    write_split(folder / "train", "train", 16, seed=0, samples_per_shard=16)
    write_split(folder / "test", "test", 4, seed=0, samples_per_shard=4)
    storage = {"train": "train/00000.tar", "test": "test/00000.tar"}
    processor = {"train": {"name": "blip2_image_train", "image_size": 56}}
    run = {"task": "image_text_pretrain", "init_lr": 1e-3, "max_epoch": 1, "iters_per_epoch": 2}
    config = {
        "model": {
            "arch": "minigpt4",
            "model_type": "tiny_gemma",
            "prompt_path": "pkg://minigpt4/prompts/caption.txt",
        },
        "datasets": {
            "cc_sbu": {"batch_size": 4, "vis_processor": processor, "build_info": {"storage": storage}}
        },
        "run": run | {"num_workers": 0, "device": "cpu", "output_dir": "job"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))


def test_wheel_trains_evaluates_and_chats_from_any_folder(site, tmp_path) -> None:
    write_config(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(site)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "answer: True" in done.stdout and "What is this?" in done.stdout
    assert (tmp_path / "job" / "checkpoint_latest.pth").is_file()
    assert (tmp_path / "report.json").is_file()


def test_wheel_has_the_command(site) -> None:
    (info,) = site.glob("minigpt4-*.dist-info")
    assert "minigpt4 = minigpt4.commands:main" in (info / "entry_points.txt").read_text()

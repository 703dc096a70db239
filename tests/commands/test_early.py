"""What is refused before the model's libraries are imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.common.lock import Lock
from tests.support import ROOT

TRAIN = "train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml"
EVAL = "eval_configs/minigpt4_tiny_gemma_eval.yaml"
HEAVY = re.compile(r"\| +(transformers|timm|gradio|accelerate|webdataset)$", re.MULTILINE)


def refused(*command: str) -> str:
    """The only line of a command's error."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "minigpt4", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and not HEAVY.search(done.stderr), done.stderr[-2000:]
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    return message


@pytest.mark.integration
@pytest.mark.parametrize(
    ("command", "facts"),
    [
        (["chat", "--cfg-path", EVAL, "--options", "model.ckpt=none.pth"], "model.ckpt none.pth"),
        (["chat", "--cfg-path", EVAL, "--gpu-id", "99", "--options", "model.ckpt=null"], "cuda:99"),
        (["evaluate", "--cfg-path", TRAIN, "--device", "cud"], "device 'cud'"),
        (["train", "--cfg-path", TRAIN, "--options", "model.llama_model=no/model/here"], "model.llama_model"),
        (["train", "--cfg-path", TRAIN, "--resume", "none.pth"], "run.resume_ckpt_path none.pth"),
        (["train", "--cfg-path", TRAIN, "--options", "run.output_dir=README.md/x"], "run.output_dir"),
        (["cache-features", "--cfg-path", TRAIN, "--out", "x", "--devices", "cpu", "tpu"], "device 'tpu'"),
    ],
)
def test_mistake_is_told_before_heavy_imports(command: list[str], facts: str, tmp_path: Path) -> None:
    place = ["--options", f"run.output_dir={tmp_path}"] if command[0] == "train" else []
    message = refused(*command, *(place if "--options" not in command else []))
    assert all(fact in message for fact in facts.split()), message


@pytest.mark.integration
def test_folder_of_another_run_is_told_before_heavy_imports(tmp_path: Path) -> None:
    with Lock(tmp_path / ".lock"):
        message = refused("train", "--cfg-path", TRAIN, "--options", f"run.output_dir={tmp_path}")
    assert f"another run writes to {tmp_path}" in message

"""What is refused before the model's libraries are imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from minigpt4.common.lock import Lock
from tests.support import ROOT

TRAIN = "train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml"
EVAL = "eval_configs/minigpt4_tiny_gemma_eval.yaml"
SHARDS = "datasets.cc_sbu.build_info.storage"
OWN = "train_configs/minigpt4_tiny_easyvqa.yaml"
LINES = "datasets.jsonl.build_info"
# These are told before torch is imported, so they are the first.
PATHS = {
    f"{SHARDS} /path/to/": ["train", "--cfg-path", TRAIN, "--options", f"{SHARDS}=/path/to/{{0..9}}.tar"],
    f"{SHARDS} 'tests'": ["train", "--cfg-path", TRAIN, "--options", f"{SHARDS}=tets/0.tar"],
    f"{LINES}.ann_path 'train.py'": ["train", "--cfg-path", OWN, "--options", f"{LINES}.ann_path=trian.py"],
    f"{LINES}.image_path 'docs'": [
        *("train", "--cfg-path", OWN, "--options", f"{LINES}.ann_path=train.py", f"{LINES}.image_path=dosc"),
    ],
    f"{LINES}.instructions 'prompts'": [
        *("train", "--cfg-path", OWN, "--options", f"{LINES}.ann_path=train.py"),
        f"{LINES}.instructions=promts/mine.txt",
    ],
}
MISTAKES = PATHS | {
    "model.prompt_path 'alignment.txt'": [
        *("chat", "--cfg-path", EVAL, "--options", "model.prompt_path=prompts/alignmet.txt"),
    ],
    "model.ckpt none.pth": ["chat", "--cfg-path", EVAL, "--options", "model.ckpt=none.pth"],
    "cuda:99": ["chat", "--cfg-path", EVAL, "--gpu-id", "99", "--options", "model.ckpt=null"],
    "device 'cud'": ["evaluate", "--cfg-path", TRAIN, "--device", "cud"],
    "model.llama_model": [
        "train",
        "--cfg-path",
        TRAIN,
        "--options",
        "model.llama_model=no/model/here",
        f"{SHARDS}=pipe:none",
    ],
    "run.resume_ckpt_path none.pth": ["train", "--cfg-path", TRAIN, "--resume", "none.pth", "--options"],
    "run.resume_ckpt_path 'auto2' 'auto'": ["train", "--cfg-path", TRAIN, "--resume", "auto2", "--options"],
    "run.output_dir": ["train", "--cfg-path", TRAIN, "--options", "run.output_dir=README.md/x"],
    "device 'tpu'": ["cache-features", "--cfg-path", TRAIN, "--out", "x", "--devices", "cpu", "tpu"],
    "another run writes to": ["train", "--cfg-path", TRAIN, "--options"],
}
# Of each command: what it exits with, and what was imported until then.
RUN_ALL = """
import json, sys
from minigpt4.commands import main

for command in json.loads(sys.argv[1]):
    sys.argv = ["minigpt4", *command]
    try:
        main()
        ended = 0
    except SystemExit as error:
        ended = error.code
    heavy = {"torch", "transformers", "timm", "gradio", "accelerate", "webdataset"}.intersection(sys.modules)
    print(json.dumps([ended, sorted(heavy)]))
"""


@pytest.fixture(scope="module")
def locked(tmp_path_factory) -> Path:
    """The folder that another run writes to."""
    return tmp_path_factory.mktemp("locked")


@pytest.fixture(scope="module")
def unmade(tmp_path_factory) -> Path:
    """The output folder of a run that does not begin."""
    return tmp_path_factory.mktemp("runs") / "new" / "run"


@pytest.fixture(scope="module")
def refusals(unmade, locked) -> dict[str, tuple[str, list[str]]]:
    """The facts of a mistake -> what its command ends with, and the heavy modules that are imported by then.

    One process for all of them, since most of a command's time is that of its imports.
    """
    commands = [
        [*words, f"run.output_dir={locked if 'another' in facts else unmade}", f"{SHARDS}=pipe:none"]
        if words[-1] == "--options"
        else [*words, f"run.output_dir={unmade}"]
        if facts in PATHS
        else words
        for facts, words in MISTAKES.items()
    ]
    with Lock(locked / ".lock"):
        done = subprocess.run(
            [sys.executable, "-c", RUN_ALL, json.dumps(commands)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    return dict(zip(MISTAKES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.integration
@pytest.mark.parametrize("facts", MISTAKES)
def test_mistake_is_told_before_heavy_imports(refusals, facts: str) -> None:
    message, heavy = refusals[facts]
    assert heavy in ([], [] if facts in PATHS else ["torch"])
    assert message.startswith("error") and "\n" not in message
    assert all(fact in message for fact in facts.split()), message


@pytest.mark.integration
def test_a_folder_that_another_run_writes_to_is_named(refusals, locked) -> None:
    message, _ = refusals["another run writes to"]
    assert str(locked) in message


@pytest.mark.integration
def test_a_run_that_does_not_begin_leaves_nothing(refusals, unmade) -> None:
    assert not unmade.parent.exists()

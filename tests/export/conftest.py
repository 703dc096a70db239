"""Exported folders, and what transformers alone makes of them."""

import subprocess
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.config import Config
from minigpt4.export.__main__ import write
from minigpt4.serving import ChatModel
from tests.support import ROOT
from tests.support.exports import PICTURES, TOWERS, clip_config, export_tiny, load_tiny
from tests.support.once import once


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> Path:
    """The tiny models in both forms, and `TOWERS` in front of them."""
    return once(tmp_path_factory, "exported", _export)


def _export(root: Path) -> Path:
    for llm in ("gemma", "llama"):
        assert export_tiny(llm, root / f"{llm}-blip2") == "blip2"
        assert export_tiny(llm, root / f"{llm}-llava", "llava") == "llava"
    for tower in TOWERS:
        (root / f"{tower}-parts").mkdir()
        cfg = Config(Namespace(cfg_path=clip_config(root / f"{tower}-parts", tower)))
        assert write(cfg, root / tower, None) == "llava"
    return root


@pytest.fixture(scope="session")
def models() -> dict[str, ChatModel]:
    """The models that were exported."""
    return {llm: load_tiny(llm) for llm in ("gemma", "llama")}


@pytest.fixture(scope="session")
def stock(folders, tmp_path_factory) -> dict[str, Any]:
    """What a process that has transformers alone makes of the BLIP-2 form, and of CLIP and SigLIP."""
    return once(tmp_path_factory, "stock", partial(_ask, folders))


def _ask(folders: Path, place: Path) -> dict[str, Any]:
    out = place / "answers.pt"
    names = [str(folders / f"{llm}-blip2") for llm in ("gemma", "llama")]
    names += [str(folders / tower) for tower in TOWERS]
    script = ROOT / "tests/support/stock.py"
    # Isolated and elsewhere: the package could not be imported from the current folder.
    done = subprocess.run(
        [sys.executable, "-I", script, out, *names, "--", *PICTURES],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return {Path(name).name: answer for name, answer in torch.load(out).items()}

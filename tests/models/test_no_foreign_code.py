"""A model folder's own code is never run, and nobody is asked whether it may be."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.families import save_model

pty = pytest.importorskip("pty", reason="there are no terminals of this kind on Windows")

CODE = """open({canary!r}, "w").close()
from transformers import *
class C(LlamaConfig): model_type = "evil"
class M(LlamaForCausalLM): pass
class T(PreTrainedTokenizerFast): pass
def generate(*a, **k): pass
"""
CLASSES = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": ["code.T", "code.T"]}
LOAD = """
import sys, torch
from pathlib import Path
from minigpt4.common.errors import UserError
from minigpt4.models.llm_loading import load_language_model
for folder in sys.argv[1:]:
    try:
        load_language_model(Path(folder), precision="fp32", device=torch.device("cpu"))
        print(Path(folder).name, "LOADED")
    except UserError as error:
        print(Path(folder).name, "REFUSED", error)
"""


def edit(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def folders(root: Path) -> dict[str, Path]:
    """Folders that bring code in each way, and the file that it would make."""
    made = {}
    for name in ("config", "known_config", "tokenizer", "everything", "generate", "kernel"):
        folder = made[name] = save_model(root / name, "qwen2")
        canary = str(root / f"{name}.ran")
        (folder / "code.py").write_text(CODE.format(canary=canary))
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(CODE.format(canary=canary))
        if name in ("config", "everything"):
            edit(folder / "config.json", auto_map=CLASSES, model_type="evil", architectures=["M"])
        if name == "known_config":
            edit(folder / "config.json", auto_map=CLASSES)
        if name in ("tokenizer", "everything"):
            edit(folder / "tokenizer_config.json", auto_map=CLASSES, tokenizer_class="T")
        if name == "kernel":
            edit(folder / "config.json", attn_implementation="somebody/kernel")
    return made


@pytest.mark.integration
def test_no_folder_is_asked_about_or_run_at_a_terminal(tmp_path) -> None:
    made = folders(tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, *map(str, made.values())],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"PYTHONPATH": os.getcwd(), "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    os.close(theirs)
    os.write(ours, b"y\n" * 20)
    shown = b""
    while piece := read(ours):
        shown += piece
    text = shown.decode()
    assert process.wait() == 0, text
    assert "[y/N]" not in text and "trust_remote_code" not in text
    assert not list(tmp_path.glob("*.ran")) and not (tmp_path / "modules").exists()
    for name in ("config", "everything"):
        assert f"{name} REFUSED model.llama_model: {made[name]} needs its own code (`auto_map`)" in text
    for name in ("known_config", "tokenizer", "generate"):
        assert f"{name} LOADED" in text
    assert "kernel REFUSED model.llama_model: the config of" in text and "'somebody/kernel'" in text


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux's way to say that the other end was closed
        return b""

"""Checkpoints, model folders and GGUF files."""

import functools
import shutil
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from minigpt4.common import exported
from minigpt4.common.config import Config
from minigpt4.models.base_model import BaseModel
from minigpt4.models.lora_folder import write_adapter
from minigpt4.prompts.sample import Batch
from minigpt4.weights.checkpoint import save_checkpoint
from minigpt4.weights.resolver import read_tensors
from tests.fuzz import data
from tests.support import GOLDEN
from tests.support.families import save_model
from tests.support.gguf import write_gguf
from tests.support.golden import build_golden_model, build_golden_v2, golden_model_config


def write_checkpoint(folder: Path) -> None:
    model = data.golden()
    state = {"model": model.trainable_state_dict(), "meta": model.checkpoint_meta(), "epoch": 0, "step": 4}
    save_checkpoint(state, folder / "checkpoint.pth")
    shutil.copy(GOLDEN / "minigpt4_checkpoint.pth", folder / "original.pth")


def read_checkpoint(folder: Path) -> None:
    for path in sorted(folder.glob("*.pth")):
        data.golden().load_checkpoint(path)


@functools.cache
def adapted() -> Any:
    return build_golden_v2()


def write_adapter_folder(folder: Path) -> None:
    write_adapter(folder, adapted().trainable_state_dict(), adapted().language.lora, "a/llama")


def read_adapter_folder(folder: Path) -> None:
    adapted().load_adapter(folder)


def write_tensors(folder: Path) -> None:
    save_file({"a.weight": torch.ones(4, 4), "b": torch.zeros(3).half()}, folder / "model.safetensors")
    torch.save({"model": {"a": torch.ones(4)}}, folder / "old.pth", _use_new_zipfile_serialization=False)


def read_tensor_files(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_tensors(path)
        read_tensors(path, mapped=True)


def model_folder(family: str, **saved: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_model(folder, family)
        if saved:
            model = AutoModelForCausalLM.from_pretrained(folder)
            (folder / "model.safetensors").unlink()
            model.save_pretrained(folder, **saved)
        (folder / "evil.py").write_text("open('CANARY', 'w')\nclass Evil:\n    pass\n")

    return write


@torch.no_grad()
def read_model(folder: Path) -> None:
    """Load it, and train and chat with it."""
    (path,) = list(folder.glob("*.gguf")) or [folder]
    model = build_golden_model(llama_model=str(path), ckpt=None).eval()
    image = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    model(Batch.from_mapping({"image": image, "answer": ["a dog"]}))
    model.generate(image, ["<Img><ImageHere></Img> What?"], max_new_tokens=3)


def write_gguf_file(folder: Path) -> None:
    write_gguf(folder / "tiny.gguf")


def write_vision(folder: Path) -> None:
    for name in ("eva_vit.pth", "blip2_qformer.pth"):
        shutil.copy(GOLDEN / name, folder)


def read_vision(folder: Path) -> None:
    build_golden_model(vit_weights="eva_vit.pth", q_former_model="blip2_qformer.pth")


def write_description(folder: Path) -> None:
    """What `minigpt4 export` leaves for this package."""
    settings = BaseModel.settings(golden_model_config())
    exported.write_description(folder, asdict(settings), {"image_size": settings.image_size})


def read_exported(folder: Path) -> None:
    Config(Namespace(cfg_path=str(folder))).model_settings()

"""minigpt4 export-adapter: from a checkpoint to a folder of peft's, without the language model."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from minigpt4.commands.export_adapter import export
from minigpt4.common.errors import UserError
from minigpt4.models.lora_folder import read_adapter
from tests.support import GOLDEN

MODEL = {"arch": "minigpt_v2", "llama_model": "some/llama", "lora_r": 4, "lora_alpha": 8}


def exported(folder: Path, **model: Any) -> Path:
    path = folder / "c.yaml"
    ckpt = str(GOLDEN / "original_checkpoints" / "v2.pth")
    path.write_text(yaml.safe_dump({"model": MODEL | {"ckpt": ckpt} | model}))
    export(argparse.Namespace(cfg_path=path, options=[], out=folder / "adapter"))
    return folder / "adapter"


def test_the_adapter_of_a_published_checkpoint_goes_out(tmp_path, capsys) -> None:
    folder = exported(tmp_path)
    tensors, alpha = read_adapter(folder)
    saved = torch.load(GOLDEN / "original_checkpoints" / "v2.pth", weights_only=True)["model"]
    assert alpha == 8 and len(tensors) == 8
    assert all(torch.equal(value, saved[key]) for key, value in tensors.items())
    assert f"{folder}: a LoRA adapter of rank 4 for some/llama" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        ({"lora_r": 8}, "v2.pth model.lora_r 4 8"),
        ({"lora_alpha": 16}, "v2.pth model.lora_alpha 8 16"),
        ({"ckpt": str(GOLDEN / "minigpt4_checkpoint.pth")}, "minigpt4_checkpoint.pth no LoRA adapter"),
        ({"lora_r": 0}, "model.lora_r model.ckpt"),
        ({"ckpt": None}, "model.lora_r model.ckpt"),
    ],
)
def test_what_is_not_that_adapter_is_not_written(tmp_path, model, facts) -> None:
    with pytest.raises(UserError) as error:
        exported(tmp_path, **model)
    assert all(fact in str(error.value) for fact in facts.split())
    assert not (tmp_path / "adapter").exists()

"""The linear layer between the tiny encoder of MiniGPT-v2 and what a tiny language model was taught to read.

The encoder's tokens state facts linearly (`train_v2_encoder`), and the language model was taught with a
linear layer of facts (`train_v2_language_model`). One behind the other they are one linear layer: least
squares over drawn pictures of the split train find it, and find the second again in it.

Letters: N tokens of all pictures, W numbers of a token, F facts, D width of the language model.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.weights.checkpoint import save_checkpoint
from tools.tiny_backbones import train_v2_encoder as encoder

PICTURES = 1500
TOGETHER = 100


def _reader(family: str, folder: Path, projection: Path | None = None) -> MiniGPTv2:
    section = {"arch": "minigpt_v2", "model_type": f"tiny_{family}", "llama_model": str(folder), "lora_r": 0}
    return MiniGPTv2.from_config(section | ({"ckpt": str(projection)} if projection else {}), device="cpu")


@cache
def _seen() -> tuple[Tensor, Tensor]:
    """Tokens of pictures, each followed by a one, and the facts in them: [N, W+1], [N, F]."""
    vision = MiniGPTv2.from_config({"arch": "minigpt_v2", "model_type": "tiny_gemma"}, device="cpu").vision
    pixels, _, facts, _ = encoder.pictures("train", PICTURES, seed=10, nameless=0.0)
    tokens = torch.cat([vision(chunk).float() for chunk in torch.from_numpy(pixels).split(TOGETHER)])
    tokens = tokens.flatten(0, 1)
    return torch.cat([tokens, torch.ones(len(tokens), 1)], -1), torch.from_numpy(facts).flatten(0, 1)


@torch.no_grad()
def save(family: str, folder: Path, layer: Tensor, file: Path) -> None:
    """Writes the layer that gives of pictures what `facts @ layer` gives of facts.

    Args:
        folder: of the language model that reads it.
        layer: [F, D].
    """
    model, (tokens, facts) = _reader(family, folder), _seen()
    found = torch.linalg.lstsq(tokens, facts @ layer).solution  # [W+1, D]
    model.projection.weight.copy_(found[:-1].T)
    model.projection.bias.copy_(found[-1])
    trained = {key: tensor.bfloat16() for key, tensor in model.trainable_state_dict().items()}
    save_checkpoint({"model": trained, "meta": model.checkpoint_meta()}, file)


@torch.no_grad()
def layer_of_facts(family: str, folder: Path, file: Path) -> Tensor:
    """What `save` was given: [F, D]."""
    model, (tokens, facts) = _reader(family, folder, file), _seen()
    wanted = model.projection(tokens[:, :-1])
    # Facts depend on each other (each edge has one place): the smallest solution.
    return torch.linalg.lstsq(facts, wanted, driver="gelsd").solution

"""Tensors in other code's checkpoints that were not trained.

The runners of the original and the Gemma fork leave frozen parameters out of their files, but not buffers,
nor the second name of a shared parameter (a head that is tied to the embedding table).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from minigpt4.models.saved_lora import in_old_names

# Buffers that follow from the architecture.
DERIVED = re.compile(r"llama_model\..*\.rotary_emb\.inv_freq|Qformer\.bert\.embeddings\.position_ids")
FORK_NAME = re.compile(r"^llm_model\.")


def split_derived(
    tensors: Mapping[str, torch.Tensor], second_names: Mapping[str, nn.Parameter]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A checkpoint's tensors -> those that were trained or are unknown, those that follow from the model.

    Both are under the original's names.
    """
    tensors = {FORK_NAME.sub("llama_model.", in_old_names(key)): value for key, value in tensors.items()}
    follow = {key: value for key, value in tensors.items() if key in second_names or DERIVED.fullmatch(key)}
    return {key: value for key, value in tensors.items() if key not in follow}, follow


def second_names(model: nn.Module, key_of: Callable[[str], str]) -> dict[str, nn.Parameter]:
    """The further names of shared parameters, as checkpoints have them."""
    first = {name for name, _ in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {key_of(name): parameter for name, parameter in every if name not in first}


def find_other(tensors: Mapping[str, torch.Tensor], own: Mapping[str, nn.Parameter]) -> str | None:
    """Which shared parameter has other values in a checkpoint, in words; None if none has."""
    for key in tensors.keys() & own.keys():
        if not _agree(tensors[key], own[key]):
            return f"was trained for another language model: its {key} is not that of model.llama_model"
    return None


def _agree(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether some rows of two matrices are the same, up to the precision of 16 bits."""
    if one.shape != other.shape:
        return False
    rows = torch.linspace(0, len(one) - 1, 64).long()
    here = other.detach()[rows.to(other.device)].cpu()
    return torch.allclose(one[rows].float(), here.float(), rtol=0.01, atol=1e-6)


def endings_of(keys: Iterable[str]) -> str:
    """The ends of keys, counted: `rotary_emb.inv_freq (32)`."""
    ends = Counter(".".join(key.split(".")[-2:]) for key in keys)
    return ", ".join(f"{end} ({count})" for end, count in ends.items())

"""The LoRA adapter in a checkpoint, and whether a model's own is like it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from minigpt4.models.lora import Lora

# peft's names since 0.3 hold the adapter's; those of checkpoints do not, as with peft 0.2.
_NEWER = re.compile(r"\.(lora_[AB])\.default\.weight$")
_LAYER = re.compile(r"^(.*\.([^.]+))\.lora_A\.weight$")


def in_old_names(key: str) -> str:
    """A tensor's key as peft 0.2 writes it."""
    return _NEWER.sub(r".\1.weight", key)


def is_lora(key: str) -> bool:
    """Whether a checkpoint's tensor is an adapter's."""
    return ".lora_A." in key or ".lora_B." in key


def saved_alpha(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """`{"lora_alpha": …}` as the configuration in a checkpoint of the original says; empty if it does not."""
    config = checkpoint.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    alpha = model.get("lora_alpha") if isinstance(model, Mapping) else None
    return {"lora_alpha": alpha} if type(alpha) is int else {}


def other_lora(
    own: Lora | None, tensors: Mapping[str, torch.Tensor], alpha: int | None, own_keys: Iterable[str]
) -> str | None:
    """Say why a saved adapter does not fit, naming the YAML keys; None if it fits or there is none.

    Args:
        own: the model's adapter.
        tensors: of a checkpoint.
        alpha: that it was trained with; None where nothing says so.
        own_keys: of the model's tensors, as in checkpoints.
    """
    layers = adapted_layers(tensors)
    if not layers:
        return None
    targets = sorted(set(layers.values()))
    ranks = sorted({tensors[f"{layer}.lora_A.weight"].shape[0] for layer in layers})
    if own is None:
        scale = "as it was trained with (the original's default is 16)" if alpha is None else str(alpha)
        return (
            f"holds a LoRA adapter, and model.lora_r is 0: please set model.lora_r: {ranks[0]}, "
            f"model.lora_alpha: {scale}, model.lora_target_modules: [{', '.join(targets)}]"
        )
    for name, there, here in (
        ("lora_r", ranks, [own.rank]),
        ("lora_alpha", [alpha or own.alpha], [own.alpha]),
    ):
        if there != here:
            return f"was trained with model.{name} {', '.join(map(str, there))}, the config says {here[0]}"
    mine = adapted_layers(own_keys)
    if layers.keys() != mine.keys():
        adapted = sorted(set(mine.values()))
        return (
            f"was trained with adapters of {len(layers)} layers, model.lora_target_modules: "
            f"[{', '.join(targets)}]; the config has {len(mine)}: [{', '.join(adapted)}]"
        )
    return None


def adapted_layers(keys: Iterable[str]) -> dict[str, str]:
    """Of a checkpoint's keys, the layers with an adapter by their full names, and the last part of each."""
    return {match[1]: match[2] for key in keys if (match := _LAYER.match(key))}

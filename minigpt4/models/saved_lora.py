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


def saved_alpha(checkpoint: Mapping[str, Any]) -> dict[str, int]:
    """`{"lora_alpha": …}` as the configuration in a checkpoint of the original says; empty if it does not."""
    config = checkpoint.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    alpha = model.get("lora_alpha") if isinstance(model, Mapping) else None
    return {"lora_alpha": alpha} if type(alpha) is int else {}


def other_lora(
    own: Lora | None, own_keys: Iterable[str], tensors: Mapping[str, torch.Tensor], alpha: int | None
) -> str | None:
    """Say why a checkpoint's adapter does not fit, naming the YAML keys; None if it fits or there is none.

    Args:
        own: the model's adapter.
        own_keys: of the model's tensors, as in checkpoints.
        tensors: of the checkpoint.
        alpha: that it was trained with, if the checkpoint says.
    """
    layers = _layers(tensors)
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
    if ranks != [own.rank]:
        return f"was trained with model.lora_r {', '.join(map(str, ranks))}, the config says {own.rank}"
    mine = _layers(own_keys)
    if layers.keys() != mine.keys():
        adapted = sorted(set(mine.values()))
        return (
            f"was trained with adapters of {len(layers)} layers, model.lora_target_modules: "
            f"[{', '.join(targets)}]; the config has {len(mine)}: [{', '.join(adapted)}]"
        )
    return None


def _layers(keys: Iterable[str]) -> dict[str, str]:
    """Adapted layers by their full names, and the last part of each."""
    return {match[1]: match[2] for key in keys if (match := _LAYER.match(key))}

"""A LoRA adapter as a folder of peft's: `adapter_config.json` and `adapter_model.safetensors`.

`peft.PeftModel.from_pretrained` puts such a folder on the stock language model.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from minigpt4.common.errors import CheckpointError, reading
from minigpt4.common.files import open_regular, replacing
from minigpt4.models.lora import Lora
from minigpt4.models.original_names import LANGUAGE_MODEL
from minigpt4.models.saved_lora import adapted_layers, in_old_names, is_lora
from minigpt4.weights.resolver import read_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LARGEST_CONFIG = 1 << 20  # bytes
# What else an adapter_config.json may say without changing what the adapter computes here.
WITHOUT_EFFECT = {
    *("auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "fan_in_fan_out", "inference_mode"),
    *("init_lora_weights", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "task_type"),
}
PLAIN = {"peft_type": "LORA", "bias": "none"}


def write_adapter(folder: Path, tensors: Mapping[str, torch.Tensor], lora: Lora, base: str) -> None:
    """Write an adapter.

    Args:
        folder: created where it is missing; an adapter in it is replaced.
        tensors: of a checkpoint; only the adapter's are taken.
        lora: what it was trained with.
        base: the language model that it belongs to, as a path or hub id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    adapter = {
        key.removeprefix(LANGUAGE_MODEL): value.detach().cpu().contiguous()
        for key, value in tensors.items()
        if is_lora(key)
    }
    said = lora.peft_config().to_dict() | {
        "base_model_name_or_path": base,
        "inference_mode": True,
        "target_modules": sorted(set(adapted_layers(tensors).values())),
    }
    contents = {
        WEIGHTS: save(adapter, metadata={"format": "pt"}),
        CONFIG: (json.dumps(said, indent=2, sort_keys=True) + "\n").encode(),
    }
    for name, content in contents.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)


def read_adapter(folder: Path) -> tuple[dict[str, torch.Tensor], int]:
    """Read an adapter.

    Returns:
        Its tensors under the names of a checkpoint, and its alpha.

    Raises:
        CheckpointError: if the folder is damaged, or holds anything but plain LoRA.
    """
    path = folder / CONFIG
    with reading(path, failed="model.lora_adapter: {} is not an adapter's configuration"):
        with open_regular(path) as file:
            said = json.loads(file.read(LARGEST_CONFIG))
        alpha = _plain_alpha(said, path)
    tensors = read_tensors(folder / WEIGHTS)
    return {LANGUAGE_MODEL + in_old_names(key): value for key, value in tensors.items()}, alpha


def _plain_alpha(said: Any, path: Path) -> int:
    if not isinstance(said, dict) or type(said.get("lora_alpha")) is not int:
        raise ValueError("lora_alpha is not a whole number")
    known = {*WITHOUT_EFFECT, *PLAIN, "r", "lora_alpha"}
    special = [key for key, value in said.items() if value and key not in known]
    special += [key for key, plain in PLAIN.items() if said.get(key, plain) != plain]
    if special:
        raise CheckpointError(
            f"model.lora_adapter: {path} sets {', '.join(map(str, special[:5]))}, and only plain LoRA is "
            "supported"
        )
    return said["lora_alpha"]

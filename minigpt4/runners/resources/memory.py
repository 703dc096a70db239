"""Memory in bytes: what of a training step can be counted, what a device has, and what a process has taken.

Activations are not counted but measured: what a layer keeps for the backward pass depends on kernels, on
compilation and on the length of the texts.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from minigpt4.common import launch
from minigpt4.models.head_loss import LOGITS_AT_A_TIME
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.vision_tower import VisionTower

FLOAT32 = 4


@dataclass(frozen=True)
class CountedMemory:
    """What a training step needs on each device beside its activations.

    Attributes:
        batch_size: samples of the largest batch.
        weights: by module.
        gradients: of the trained parameters.
        optimizer_state: AdamW's two averages of each gradient.
        images: pixels or cached features of one update.
        logits: at most; each target token has one per word of the vocabulary, and longer batches are divided.
    """

    batch_size: int
    weights: dict[str, int]
    gradients: int
    optimizer_state: int
    images: int
    logits: int

    @property
    def parts(self) -> dict[str, int]:
        """By name, for people."""
        return {
            "weights": sum(self.weights.values()),
            "gradients": self.gradients,
            "optimizer state": self.optimizer_state,
            "images of an update": self.images,
            "logits": self.logits,
        }

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def count_memory(model: MiniGPTBase, batch_size: int, accum_grad_iters: int) -> CountedMemory:
    """Count what a training step of `model` needs beside its activations.

    Args:
        model: built; its language model need not be sharded yet.
        batch_size: samples per step on this device.
        accum_grad_iters: batches that lie on the device for an update.
    """
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    weights = {part: sum(map(weight_bytes, tensors)) for part, tensors in model.parameters_by_part().items()}
    if model.part_to_shard() is not None:
        weights["llama_model"] -= sharded_away(model)
    vocabulary = model.language.config.vocab_size
    logits = min(batch_size * model.max_txt_len * vocabulary, LOGITS_AT_A_TIME)
    return CountedMemory(
        batch_size,
        weights=weights,
        gradients=trained,
        optimizer_state=2 * trained,
        images=accum_grad_iters * batch_size * _image_bytes(model),
        logits=logits * _bytes_per_logit(model),
    )


def weight_bytes(parameter: torch.Tensor) -> int:
    """What a parameter takes, with the scales of a quantised one (bitsandbytes)."""
    state = getattr(parameter, "quant_state", None)
    scales = (getattr(parameter, "SCB", None), getattr(state, "absmax", None))  # of 8 bits, of 4
    return parameter.nbytes + sum(scale.nbytes for scale in scales if torch.is_tensor(scale))


def sharded_away(model: MiniGPTBase) -> int:
    """How much of the language model's weights a rank need not hold where `model.device_map` is `shard`."""
    layers = [sum(map(weight_bytes, _frozen_in(layer))) for layer in model.language.layers]
    # One layer lies there whole, and the next is on its way.
    return max(0, sum(layers) - sum(layers) // launch.ranks_per_model() - 2 * max(layers, default=0))


def _frozen_in(layer: nn.Module) -> Iterator[nn.Parameter]:
    """What of a layer is sharded; an adapter is not."""
    return (parameter for parameter in layer.parameters() if not parameter.requires_grad)


def _image_bytes(model: MiniGPTBase) -> int:
    """Of one image's uint8 pixels, or of its features in bfloat16."""
    if isinstance(model.vision, VisionTower):
        return 3 * model.image_size**2
    return 2 * model.token_shape.count * model.token_shape.width


def _bytes_per_logit(model: MiniGPTBase) -> int:
    """In float32: log-softmax and two gradients; if logits are capped (Gemma-2), tanh and product too."""
    capped = getattr(model.language.config, "final_logit_softcapping", None) is not None
    return (3 + 2 * capped) * FLOAT32


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where that can be forgotten."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with contextlib.suppress(OSError):  # Linux has it; a container may forbid it
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """The most bytes since `reset_peak_memory`: allocated on a GPU, resident on a CPU; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()  # now; what was freed is kept for later
    status = Path("/proc/self/status")  # Linux has it
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def available_memory(device: torch.device) -> int | None:
    """The bytes of its device that this process can have, what it has already among them; None if unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    if not hasattr(os, "sysconf"):  # Windows
        return None
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([memory, *_control_group_limits()]) // launch.local_world_size()


def _control_group_limits(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What Linux lets a container, or a cluster's job, have of a machine's memory: its own and outer limits.

    Args:
        root: where control groups of version 2 are; those of version 1 are in a folder per controller below.
        own: which of them this process is in, one line `number:controllers:path` each.
    """
    limits = []
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / path.lstrip("/")
        files = [folder / name for folder in (group, *group.parents) if (folder / name).is_file()]
        limits += [int(text) for text in (file.read_text().strip() for file in files) if text.isdigit()]
    return limits

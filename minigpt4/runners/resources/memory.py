"""Whether a training step will find the memory it needs, and what would need less. In bytes."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from minigpt4.common import launch
from minigpt4.common.device import dtype_for
from minigpt4.common.formatting import format_bytes
from minigpt4.models.execution import layers_of
from minigpt4.models.head_loss import LOGITS_AT_A_TIME
from minigpt4.models.image_tokens import VISION_PARTS
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.resources.activations import (
    FLOAT32,
    language_layers,
    logit_bytes,
    looking,
    number_bytes,
    picture_bytes,
    reading,
    recomputed,
)

# What may be planned with. The rest is for libraries' work spaces (cuBLAS, NCCL) and for what the allocator
# cannot give out again.
USABLE = 0.9


@dataclass(frozen=True)
class Saving:
    """What the YAML could say to need less.

    Attributes:
        advice: the key and its value.
        fixed, per_sample: bytes, as in `MemoryEstimate`.
    """

    advice: str
    fixed: int
    per_sample: int


@dataclass(frozen=True)
class MemoryEstimate:
    """What a step needs on each device, as if all of it were there at once.

    Attributes:
        batch_size: samples.
        weights: of each module.
        fixed: what else does not depend on the batch, by part.
        per_sample: what each sample of the batch adds, by part.
        most: what a part comes to at most, where it does not grow for ever.
        savings: the cheapest first.
    """

    batch_size: int
    weights: dict[str, int]
    fixed: dict[str, int]
    per_sample: dict[str, int]
    most: dict[str, int] = field(default_factory=dict)
    savings: tuple[Saving, ...] = ()

    @property
    def parts(self) -> dict[str, int]:
        """By part, for the whole batch."""
        weights = {f"weights of {module}": size for module, size in self.weights.items()}
        batch = {part: size * self.batch_size for part, size in self.per_sample.items()}
        capped = {part: min(batch[part], most) for part, most in self.most.items() if part in batch}
        return weights | self.fixed | batch | capped

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def fits(self, available: int) -> bool:
        """Whether a device with so many bytes will probably do."""
        return self.total <= USABLE * available

    def with_batch(self, batch_size: int) -> "MemoryEstimate":
        return replace(self, batch_size=batch_size)

    def with_savings(self, *savings: Saving) -> "MemoryEstimate":
        fixed = {"saved": -sum(saving.fixed for saving in savings)}
        per_sample = {"saved a sample": -sum(saving.per_sample for saving in savings)}
        return replace(self, fixed=self.fixed | fixed, per_sample=self.per_sample | per_sample)


def estimate_memory(
    model: MiniGPTBase,
    *,
    batch_size: int,
    text_tokens: int | None = None,
    accum_grad_iters: int = 1,
    ranks: int = 1,
) -> MemoryEstimate:
    """What a training step of `model` needs.

    Weights, gradients and the optimizer's state are counted. The rest is reckoned as in eager mode, on the
    safe side: for stage 1 at the benchmarks' size `small`, a tenth above what a CPU's allocator peaks at.
    `torch.compile` needs less. Samples longer than the longest caption (dialogues) need more.

    Args:
        model: built; its language model need not be spread yet.
        batch_size: samples a step on this device.
        text_tokens: T, text and images; None takes the longest caption's (`sample_tokens`).
        accum_grad_iters: batches that lie on the device for an update.
        ranks: so many share the language model, or could (`model.device_map: shard`).
    """
    tokens = text_tokens or sample_tokens(model)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    look, kept = looking(model)
    read = reading(model, tokens, recomputed(model))
    # The encoder is done before the language model begins: one of the two moments is the worst.
    busy = max(look, read, key=lambda parts: sum(parts.values()))
    at_least = max(sum(look.values()), sum(reading(model, tokens, recompute=True).values()))
    savings = _smaller_layers(model, tokens, ranks)
    savings += _from_cache(model, sum(busy.values()) - sum(read.values()))
    if not recomputed(model):
        savings.insert(0, Saving("model.llm_grad_checkpoint: True", 0, sum(busy.values()) - at_least))
    weights = _weights(model)
    if model.part_to_shard() is not None:
        weights["llama_model"] -= _not_here(model, ranks)
    return MemoryEstimate(
        batch_size,
        weights=weights,
        # AdamW keeps two averages of each gradient. The pictures of an update, and of the next, are as many
        # whatever the batch, if accumulation makes up for it.
        fixed={
            "gradients": trained,
            "optimizer state": 2 * trained,
            "pictures": 2 * accum_grad_iters * batch_size * picture_bytes(model),
        },
        per_sample=kept | busy,
        most={"logits": LOGITS_AT_A_TIME * logit_bytes(model)},
        savings=tuple(savings),
    )


def sample_tokens(model: MiniGPTBase) -> int:
    """T of the longest caption under the longest prompt: BOS, prompt, image, `max_txt_len`."""
    prompts = model.prompt_list or [model.caption_prompt()]
    return max(len(model.prompts.prompt_ids(prompt)) for prompt in prompts) + model.max_txt_len


def weight_bytes(parameter: nn.Parameter) -> int:
    """What a parameter takes, with the scales of a quantised one (bitsandbytes)."""
    state = getattr(parameter, "quant_state", None)
    scales = (getattr(parameter, "SCB", None), getattr(state, "absmax", None))  # of 8 bits, of 4
    return parameter.nbytes + sum(scale.nbytes for scale in scales if torch.is_tensor(scale))


def _weights(model: MiniGPTBase) -> dict[str, int]:
    """Of each module."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        sizes[part] = sizes.get(part, 0) + weight_bytes(parameter)
    return sizes


def _not_here(model: MiniGPTBase, ranks: int) -> int:
    """Of the language model's weights, what a rank need not hold where so many share its layers."""
    layers = [sum(map(weight_bytes, layer.parameters())) for layer in layers_of(model.llama_model)]
    # One layer lies there whole, and the next is on its way.
    return max(0, sum(layers) - sum(layers) // ranks - 2 * max(layers, default=0))


def _smaller_layers(model: MiniGPTBase, tokens: int, ranks: int) -> list[Saving]:
    """The language model's layers in bfloat16; if they are, spread over the ranks, or else quantised."""
    products = [m for m in nn.ModuleList(layers_of(model.llama_model)).modules() if isinstance(m, nn.Linear)]
    stored = sum(weight_bytes(product.weight) for product in products)
    numbers = sum(product.in_features * product.out_features for product in products)
    size = number_bytes(model)
    if size == FLOAT32 and dtype_for("bf16", model.device, "model.llm_precision") != torch.float32:
        kept = sum(language_layers(model, tokens, FLOAT32)) - sum(language_layers(model, tokens, 2))
        return [Saving("model.llm_precision: bf16", model.llama_model.num_parameters() * 2, kept * tokens)]
    if model.part_to_shard() is not None:
        return []
    if ranks > 1 and stored >= 2 * numbers:  # quantised layers cannot be spread
        return [Saving("model.device_map: shard", _not_here(model, ranks), 0)]
    # 4 bits, and a float32 scale for 64 of them.
    for precision, bytes_each in (("8bit", 1), ("4bit", 0.5 + 4 / 64)):
        if stored > 1.5 * bytes_each * numbers:
            return [Saving(f"model.llm_precision: {precision}", stored - round(bytes_each * numbers), 0)]
    return []


def _from_cache(model: MiniGPTBase, spared: int) -> list[Saving]:
    """Features in place of pictures, where all that looks at them is frozen and here."""
    parameters = [p for name, p in model.named_parameters() if name.startswith(VISION_PARTS)]
    if not parameters or any(p.requires_grad for p in parameters):
        return []
    fixed = sum(map(weight_bytes, parameters))
    return [Saving("cached features (dataset/cache_features.py)", fixed, spared)]


def memory_advice(estimate: MemoryEstimate, available: int, accum_grad_iters: int) -> str:
    """What would help: each setting by itself, those that are enough first, and all of them if none is.

    Args:
        estimate: of a step that does not fit.
        available: bytes, as `available_memory` says.
        accum_grad_iters: as it is set.
    """
    batch = estimate.batch_size

    def with_batch(least: MemoryEstimate, sizes: range) -> tuple[str, MemoryEstimate]:
        """The largest size that fits and divides the batch that was asked for, so that it stays the same."""
        divisors = [size for size in sizes if batch % size == 0]
        size = next((size for size in divisors if least.with_batch(size).fits(available)), 1)
        times = accum_grad_iters * batch // size
        longer = f"the same learning with {batch // size} times run.iters_per_epoch and run.warmup_steps"
        advice = f"batch_size: {size} and run.accum_grad_iters: {times}, {longer}"
        return advice, least.with_batch(size)

    ways = [with_batch(estimate, range(batch - 1, 0, -1))] if batch > 1 else []
    ways += [(saving.advice, estimate.with_savings(saving)) for saving in estimate.savings]
    ways.sort(key=lambda way: not way[1].fits(available))
    if not any(way.fits(available) for _, way in ways):
        advice, least = with_batch(estimate.with_savings(*estimate.savings), range(batch, 0, -1))
        ways.append((f"all of this, with {advice}", least))
    lines = [
        f"{advice} ({format_bytes(way.total)}{'' if way.fits(available) else ', not enough'})"
        for advice, way in ways
    ]
    return "\n  ".join(["What would help:", *lines])


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
        root: where control groups of version 2 are; those of version 1 are in a folder a controller below.
        own: which of them this process is in, a line `number:controllers:path` each.
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

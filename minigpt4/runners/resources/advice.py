"""What to say when memory or disk runs out."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from minigpt4.common import launch
from minigpt4.common.device import dtype_for, summarized
from minigpt4.common.errors import TrainingError
from minigpt4.common.files import is_disk_full
from minigpt4.common.formatting import format_bytes
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.resources.memory import available_memory, count_memory, sharded_away, weight_bytes


def disk_error(error: OSError, folder: Path) -> TrainingError | None:
    """What to raise in place of (and from) an error of the disk, or of a file in the run's folder.

    Args:
        error: what ended the run.
        folder: the run's.

    Returns:
        None for other errors.
    """
    if is_disk_full(error):
        return TrainingError(
            f"{error.filename or folder} could not be written: {error.strerror}. Make room and go on from "
            "the newest checkpoint with --resume auto"
        )
    if isinstance(error.filename, str) and Path(error.filename).absolute().is_relative_to(folder.absolute()):
        return TrainingError(f"run.output_dir: {error.filename}: {error.strerror}")
    return None


def out_of_memory_error(
    error: BaseException, model: MiniGPTBase, batch_size: int, accum_grad_iters: int, device: torch.device
) -> TrainingError:
    """What to raise in place of (and from) an error that `is_out_of_memory`.

    Args:
        error: what ended the step.
        model: that was trained.
        batch_size: the largest of the data sets'.
        accum_grad_iters: as it is set.
        device: of this process.
    """
    available = available_memory(device)
    of = f" of {format_bytes(available)}" if available else ""
    counted = count_memory(model, batch_size, accum_grad_iters)
    return TrainingError(
        f"{device} ran out of memory ({summarized(error)}). {format_bytes(counted.total)}{of} can be counted "
        "(weights, gradients, optimizer state, images, logits); the activations of "
        f"{batch_size} samples come on top.\n" + memory_advice(model, batch_size, accum_grad_iters)
    )


def memory_advice(model: MiniGPTBase, batch_size: int, accum_grad_iters: int) -> str:
    """What the YAML could say to need less memory, one setting per line.

    Args:
        model: as it is now; what it does already is not advised.
        batch_size: the largest of the data sets'.
        accum_grad_iters: as it is set.
    """
    ways = [
        *_smaller_batch(batch_size, accum_grad_iters),
        *_recomputation(model),
        *_smaller_layers(model),
        *_cached_features(model),
    ]
    return "\n  ".join(["What would help, each by itself:", *ways])


def _smaller_batch(batch_size: int, accum_grad_iters: int) -> Iterator[str]:
    """The largest part of the batch that divides it, so that the batch in effect stays the same."""
    if batch_size > 1:
        parts = next(parts for parts in range(2, batch_size + 1) if batch_size % parts == 0)
        yield (
            f"batch_size: {batch_size // parts} and run.accum_grad_iters: {accum_grad_iters * parts}; the "
            f"same learning takes {parts} times run.iters_per_epoch and run.warmup_steps"
        )


def _recomputation(model: MiniGPTBase) -> Iterator[str]:
    if not model.language.recomputed:
        yield (
            "model.llm_grad_checkpoint: True, which computes the activations of the language model's layers "
            "again in the backward pass instead of keeping them"
        )


def _smaller_layers(model: MiniGPTBase) -> Iterator[str]:
    """A frozen language model's layers in bfloat16; if they are, sharded over the ranks or quantised."""
    if not model.language.frozen:
        return
    linear = (m for m in nn.ModuleList(model.language.layers).modules() if isinstance(m, nn.Linear))
    products = [product for product in linear if not product.weight.requires_grad]  # without an adapter's
    stored = sum(weight_bytes(product.weight) for product in products)
    numbers = sum(product.in_features * product.out_features for product in products)
    dense = model.language.model.get_input_embeddings().weight.dtype
    if dense == torch.float32 and dtype_for("bf16", model.device, "model.llm_precision") != torch.float32:
        saved = format_bytes(2 * model.language.model.num_parameters())
        yield f"model.llm_precision: bf16, which saves {saved} of weights and half of the activations"
    elif model.part_to_shard() is not None:  # quantised layers cannot be sharded
        return
    elif launch.ranks_per_model() > 1 and stored >= 2 * numbers:
        yield f"model.device_map: shard, which saves {format_bytes(sharded_away(model))} of weights"
    else:
        # 4 bits, and a float32 scale for 64 of them.
        for precision, bytes_each in (("8bit", 1), ("4bit", 0.5 + 4 / 64)):
            if stored > 1.5 * bytes_each * numbers:
                saved = format_bytes(stored - bytes_each * numbers)
                yield f"model.llm_precision: {precision}, which saves {saved} of weights"
                return


def _cached_features(model: MiniGPTBase) -> Iterator[str]:
    """In place of pictures, where all that looks at them is frozen and here."""
    parameters = list(model.vision.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        saved = format_bytes(sum(map(weight_bytes, parameters)))
        yield f"cached features (minigpt4 cache-features), which save {saved} of weights"

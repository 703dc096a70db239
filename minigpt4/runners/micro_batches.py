"""Gradient accumulation: the micro-batches of one update of the weights, on their way to the device."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from minigpt4.prompts.encoder import TokenBatch
from minigpt4.prompts.sample import Batch


@dataclass(frozen=True)
class MicroBatches:
    """What one update is made of, on this rank.

    Attributes:
        batches: prepared by the model; their gradients are accumulated.
        images, tokens, targets: samples, tokens that the language model reads, and those of them that it
            learns to predict.
        keys: `image_id` of every sample.
    """

    batches: list[Batch]
    images: int
    tokens: int
    targets: int
    keys: list[str]


def accumulation_counts(
    step: int, max_epoch: int, iters_per_epoch: int, accum_grad_iters: int
) -> Iterator[int]:
    """How many steps, and so micro-batches, each update takes from `step` on.

    An epoch's last update takes what is left of the epoch.
    """
    while step < max_epoch * iters_per_epoch:
        done = step % iters_per_epoch
        count = min(accum_grad_iters - done % accum_grad_iters, iters_per_epoch - done)
        yield count
        step += count


def draw_micro_batches(
    batches: Iterator[Batch],
    prepare: Callable[[Batch], Batch],
    counts: Iterator[int],
    device: torch.device,
) -> Iterator[MicroBatches]:
    """Draw and prepare the micro-batches of each update.

    On a GPU they are drawn, tokenised and copied while the update before is still being computed: the copy
    has a stream of its own, and only the next update waits for it.

    Args:
        batches: from the data loaders.
        prepare: the model's `prepare`.
        counts: how many micro-batches each update has.
        device: where they are needed.
    """
    copying = torch.cuda.Stream(device) if device.type == "cuda" else None
    for count in counts:
        # All are there before the first is prepared, which takes random numbers: a run that is stopped while
        # it waits for data has taken none of those that the resumed run needs.
        drawn = [next(batches) for _ in range(count)]
        prepared = [prepare(batch) for batch in drawn]
        tokens = [_tokens(batch) for batch in prepared]
        if copying is not None:
            prepared = _copied(prepared, copying, device)
        yield MicroBatches(
            prepared,
            images=sum(map(len, prepared)),
            tokens=sum(int(one.attention_mask.sum()) for one in tokens),
            targets=sum(one.targets for one in tokens),
            keys=[key for batch in prepared for key in batch.image_ids],
        )


def _tokens(batch: Batch) -> TokenBatch:
    if batch.tokens is None:
        raise ValueError("the model's prepare() has made no tokens")
    return batch.tokens


def _copied(batches: list[Batch], copying: torch.cuda.Stream, device: torch.device) -> list[Batch]:
    """The batches on the device, copied on a stream of its own."""
    with torch.cuda.stream(copying):
        batches = [batch.pin_memory().to(device) for batch in batches]
    compute = torch.cuda.current_stream(device)
    compute.wait_stream(copying)
    for batch in batches:
        for tensor in batch.tensors():
            tensor.record_stream(compute)  # or its memory could be given to others too early
    return batches

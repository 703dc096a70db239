"""The batches of one update of the weights, on their way to the device."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from minigpt4.prompts.sample import Batch


@dataclass
class Group:
    """What one update is made of, on this rank.

    Attributes:
        batches: prepared by the model; their gradients add up.
        images, tokens, targets: samples, tokens that the language model reads, and those of them that it
            learns to predict.
        keys: `image_id` of every sample.
        bad: samples that were skipped while these were read, by reason.
    """

    batches: list[Batch]
    images: int
    tokens: int
    targets: int
    keys: list[str]
    bad: Counter[str]


def group_sizes(step: int, max_epoch: int, iters_per_epoch: int, accum_grad_iters: int) -> Iterator[int]:
    """How many steps each update takes from `step` on; none reaches over an epoch's end."""
    while step < max_epoch * iters_per_epoch:
        done = step % iters_per_epoch
        size = min(accum_grad_iters - done % accum_grad_iters, iters_per_epoch - done)
        yield size
        step += size


def draw_groups(
    batches: Iterator[Batch],
    prepare: Callable[[Batch], Batch],
    sizes: Iterator[int],
    device: torch.device,
) -> Iterator[Group]:
    """Draw and prepare the batches of each update.

    On a GPU, a group is drawn, tokenised and copied while the update before it is still computing: the copy
    has a stream of its own, and nobody waits for it but the next update.

    Args:
        batches: as the loaders give them.
        prepare: the model's `prepare`.
        sizes: how many batches each group has.
        device: where they are wanted.
    """
    side = torch.cuda.Stream(device) if device.type == "cuda" else None
    for size in sizes:
        group = _group([prepare(next(batches)) for _ in range(size)])
        if side is not None:
            with torch.cuda.stream(side):
                group.batches = [batch.pin_memory().to(device) for batch in group.batches]
            compute = torch.cuda.current_stream(device)
            compute.wait_stream(side)
            for batch in group.batches:
                for tensor in batch.tensors():
                    tensor.record_stream(compute)  # or its memory could be given away too early
        yield group


def _group(batches: list[Batch]) -> Group:
    bad: Counter[str] = Counter()
    for batch in batches:
        bad.update(batch.bad)
    return Group(
        batches,
        images=sum(map(len, batches)),
        tokens=sum(int(batch.tokens.attention_mask.sum()) for batch in batches),
        targets=sum(batch.tokens.targets for batch in batches),
        keys=[key for batch in batches for key in batch.image_ids],
        bad=bad,
    )

"""The controls of an evaluation: what it comes to where the pictures say nothing about the answers."""

import random
from dataclasses import replace

import torch

from minigpt4.prompts.sample import Batch

OTHERS, GREY = "others", "grey"  # the pictures of other samples; one flat grey for all
BACKWARDS, MIXED = "backwards", "mixed"  # the frames of each video from last to first; in any order
MIDDLE = 128  # of 8 bits; normalised pictures have their mean at 0


def controlled(batch: Batch, control: str) -> Batch:
    """The batch with the pictures that a control gives it; as it is for no control.

    Raises:
        ValueError: for an unknown control.
    """
    if control == OTHERS:
        return shuffle_images(batch)
    if control == GREY:
        return grey_images(batch)
    if control in (BACKWARDS, MIXED):
        return reordered(batch, control)
    if control:
        known = ", ".join((OTHERS, GREY, BACKWARDS, MIXED))
        raise ValueError(f"unknown control {control!r} (known: {known})")
    return batch


def shuffle_images(batch: Batch) -> Batch:
    """Give each answer the pictures, as many, of the next sample with another answer and another picture.

    Samples without pictures, and those for which the batch has no such sample, are left out.
    """
    answers, counts, pictures = batch.answers, batch.image_counts, batch.clusters
    pairs = []
    for row, answer in enumerate(answers):
        others = ((row + step) % len(batch) for step in range(1, len(batch)))
        fitting = (
            other
            for other in others
            if answers[other] != answer
            and counts[other] == counts[row]
            and (pictures[other] != pictures[row] or not pictures[row])
        )
        other = next(fitting, None)
        if other is not None and counts[row]:
            pairs.append((row, other))
    return batch.rows([row for row, _ in pairs], images_from=[other for _, other in pairs])


def grey_images(batch: Batch) -> Batch:
    """Every picture is replaced by a flat grey one."""
    if batch.images is None:
        return batch
    grey = MIDDLE if batch.images.dtype == torch.uint8 else 0
    return replace(batch, images=torch.full_like(batch.images, grey))


def reordered(batch: Batch, control: str) -> Batch:
    """The pictures of each sample in another order; samples with fewer than two are left out."""
    rows = [row for row, count in enumerate(batch.image_counts) if count > 1]
    kept = batch.rows(rows)
    if kept.images is None:
        return kept
    order, start = [], 0
    for name, count in zip(kept.image_ids, kept.image_counts, strict=True):
        places = list(range(start, start + count))
        order += places[::-1] if control == BACKWARDS else random.Random(name).sample(places, count)
        start += count
    return replace(kept, images=kept.images[order])

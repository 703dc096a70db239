"""Which records the grid of pictures shows, in training and in `evaluate`; and their pictures."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from minigpt4.processors.pictures import in_shape
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.records import Record

# How many records the grid shows, and how many wrong ones at most.
SHOWN, SHOWN_WRONG = 16, 12


def to_show(records: Sequence[Record], parts: int = 1) -> list[int]:
    """The numbers of the records to show: wrong ones, then others; of each picture one goes first.

    Args:
        records: of an evaluation.
        parts: how many evaluations share the grid.
    """
    cells, most = -(-SHOWN // parts), -(-SHOWN_WRONG // parts)
    wrong = [number for number, record in enumerate(records) if record.right is False]
    others = [number for number, record in enumerate(records) if record.right is not False]
    chosen = _different_first(wrong, records)[:most]
    return chosen + _different_first(others, records)[: cells - len(chosen)]


def _different_first(numbers: Sequence[int], records: Sequence[Record]) -> list[int]:
    first: dict[str, int] = {}
    for number in numbers:
        first.setdefault(records[number].cluster or records[number].image_id, number)
    firsts = set(first.values())
    return sorted(numbers, key=lambda number: number not in firsts)


def add_pictures(
    wanted: Mapping[int, Record],
    batches: Iterable[Batch],
    pixels: Callable[[torch.Tensor], np.ndarray | None],
) -> None:
    """Give records their pictures, from the data that they were made of, read again.

    Args:
        wanted: by their number in the evaluation.
        batches: its samples.
        pixels: an image [3, H, W] -> [H, W, 3], uint8; None if there is nothing to show.
    """
    number = 0
    for batch in batches:
        for row, image_id in enumerate(batch.image_ids):
            record, images = wanted.get(number), batch.images_of(row)
            number += 1
            if record is None or record.image_id != image_id or images is None or images.ndim != 4:
                continue  # cached features show nothing
            shown = pixels(images[0])
            record.picture = None if shown is None else in_shape(shown, batch.sizes[row])
        if number > max(wanted, default=-1):
            return


def draw_shown(records: Sequence[Record], path: Path) -> bool:
    """Draw those to show of the records that have a picture -> whether there were any."""
    from minigpt4.runners.reporting.plots import draw_samples

    pictured = [record for record in records if record.picture is not None]
    if pictured:
        path.parent.mkdir(exist_ok=True)
        draw_samples([pictured[number] for number in to_show(pictured)], path)
    return bool(pictured)

"""Data sets on COCO's pictures of 2014, all of them in one folder."""

import logging
import os
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.base_dataset import BaseDataset, Picture

log = logging.getLogger(__name__)


def train2014(image_id: str | int) -> str:
    """The name of one of COCO's training pictures: 9 -> `COCO_train2014_000000000009.jpg`."""
    return f"COCO_train2014_{image_id:0>12}.jpg"


class Selection(Sequence[Any]):
    """Some of a sequence's entries."""

    def __init__(self, entries: Sequence[Any], numbers: Sequence[int]) -> None:
        self._entries, self._numbers = entries, np.asarray(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._entries[int(self._numbers[index])]


class CocoPictures(BaseDataset):
    """Entries whose `image` is `train2014/COCO_….jpg`, the picture being `COCO_….jpg` in the folder.

    The annotations of the training sets name pictures of COCO's validation set, too. As in the original,
    entries without a picture in the folder are left out; a warning counts them.

    Raises:
        DataError: if no entry has its picture there.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        there, entries = set(os.listdir(self.vis_root)), self.annotation
        kept = [number for number, entry in enumerate(entries) if _flat(entry["image"]) in there]
        left_out = len(entries) - len(kept)
        if not kept:
            first = _flat(entries[0]["image"])
            raise DataError(f"no entry of {left_out:,} has its picture in {self.vis_root}, e.g. {first}")
        if left_out:
            log.warning("%d of %d entries have no picture in %s", left_out, len(entries), self.vis_root)
            self.annotation = Selection(entries, kept)

    def picture(self, name: str) -> Picture:
        """As `BaseDataset.picture`, whatever folder the annotation names."""
        return super().picture(_flat(name))


def _flat(name: Any) -> str:
    return PurePosixPath(str(name)).name

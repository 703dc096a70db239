"""What all datasets share: what is bad, and who reads what.

A dataset is a stream: iterated, it yields samples and, where something is wrong, a `Bad` with the reason.
It never stops for one broken picture, and nothing is dropped without being counted.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from minigpt4.common.errors import BadSample, DataError
from minigpt4.processors.pictures import decode_picture
from minigpt4.prompts.sample import Sample


@dataclass(frozen=True)
class Bad:
    """A sample or a shard that was skipped, and why."""

    reason: str
    where: str


def check_caption(caption: Any) -> str:
    """The caption, if it is text that says something. Raises BadSample."""
    if not isinstance(caption, str):
        raise BadSample("caption is no text")
    if not caption.strip():
        raise BadSample("empty caption")
    return caption


class SampleStream:
    """What ranks and workers read together: each of them is a reader, and reads a part of its own.

    Attributes:
        rank, world_size: this process among all that read.
        training: whether the stream is endless and shuffled, or everything once and in order.
        seed: decides the order in training, together with reader and number of readers.
        size: of how many shards or entries a pass consists; positions hold for this number only.
    """

    rank, world_size = 0, 1
    training: bool
    seed: int
    size: int

    def read(self, reader: int, readers: int, position: Any = None) -> Iterator[tuple[Sample | Bad, Any]]:
        """All that is reader `reader`'s of `readers`, each item with the position after it.

        Args:
            reader: from 0 to `readers` - 1.
            readers: ranks times workers.
            position: one that was given with an item, to go on after it (in training only); None: the
                beginning. What lies before is not decoded again.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[Sample | Bad]:
        worker, workers = this_worker()
        reader = self.rank * workers + worker
        return (item for item, _ in self.read(reader, self.world_size * workers))


def this_worker() -> tuple[int, int]:
    """Which of how many workers of its rank this process is."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


class BaseDataset(SampleStream, Dataset):
    """Pictures in a folder and a list of annotations; subclasses say what sample one annotation makes.

    This is where data of your own comes in that is not in the JSONL format (and need not be rewritten):

        class BirdsDataset(BaseDataset):
            REQUIRED_KEYS = ("file", "species")

            def picture_name(self, entry):
                return entry["file"]

            def sample(self, entry):
                question = "<Img><ImageHere></Img> Which bird is this?"
                return Sample(
                    dialogue=Dialogue.of([(question, entry["species"])]),
                    image=self.picture(entry),
                    image_id=entry["file"],
                )

    For a caption, `Dialogue.caption(text)`: the model asks what it asks for captions. `MapStyleBuilder` shows
    the builder that goes with it.

    Indexed, it answers a sample or a `Bad`. Iterated, it is a stream: in training without end, each pass
    in a new order that seed and number of the pass decide; else once, in order. All ranks and workers
    together read each entry of a pass once.

    Args:
        vis_processor: pixels [H, W, 3] -> tensor [3, H, W].
        text_processor: text -> text.
        vis_root: the folder of the pictures.
        ann_paths: JSON files, each a list of entries or a mapping with such a list under `annotations`.
        training: whether the stream is endless and shuffled.
        seed: decides the order.

    Raises:
        DataError: for files that are not as they should be.
    """

    REQUIRED_KEYS: ClassVar[tuple[str, ...]] = ()  # what every entry must have

    def __init__(
        self,
        vis_processor: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        vis_root: str | Path,
        ann_paths: Sequence[str | Path],
        *,
        training: bool,
        seed: int = 0,
    ) -> None:
        self.vis_processor = vis_processor
        self.text_processor = text_processor
        self.vis_root = Path(vis_root)
        self.training = training
        self.seed = seed
        self.annotation = self.read_entries(ann_paths)
        if not self.annotation:
            raise DataError(f"there is not one entry in {', '.join(map(str, ann_paths))}")
        if not self.vis_root.is_dir():
            raise DataError(f"there is no folder of pictures {self.vis_root}")

    def read_entries(self, ann_paths: Sequence[str | Path]) -> Sequence[Any]:
        """All entries of the annotation files. Raises DataError."""
        annotation: list[dict[str, Any]] = []
        for path in ann_paths:
            entries = read_annotations(path)
            for number, entry in enumerate(entries):
                try:
                    self.check_entry(entry)
                except ValueError as error:
                    raise DataError(f"{path}, entry {number}: {error}") from error
            annotation += entries
        return annotation

    def check_entry(self, entry: Any) -> None:
        """Raise ValueError if an entry cannot be used, whatever its picture is."""
        if not isinstance(entry, dict):
            raise ValueError(f"{entry!r} is no mapping")
        missing = [key for key in self.REQUIRED_KEYS if key not in entry]
        if missing:
            raise ValueError(f"{missing[0]!r} is missing (it has {', '.join(map(repr, entry)) or 'nothing'})")

    def picture_name(self, entry: Any) -> str:
        """The path of an entry's picture below `vis_root`."""
        raise NotImplementedError

    def sample(self, entry: Any) -> Sample:
        """The sample that an entry makes. Raises BadSample."""
        raise NotImplementedError

    def where(self, entry: Any) -> str:
        """How an entry is called where it has to be skipped."""
        return str(self.vis_root / self.picture_name(entry))

    def picture(self, entry: Any) -> torch.Tensor:
        """An entry's picture [3, H, W]. Raises BadSample."""
        return self.open_below_root(self.picture_name(entry))

    def open_below_root(self, name: str) -> torch.Tensor:
        """The picture of that path below `vis_root` [3, H, W]. Raises BadSample."""
        try:
            check_inside(name)
        except ValueError as error:
            raise BadSample("image outside its folder") from error
        path = self.vis_root / name
        if not os.path.isfile(path):  # unlike Path.is_file, this never raises
            raise BadSample("missing image")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadSample("unreadable image") from error
        return self.vis_processor(decode_picture(data))

    def __len__(self) -> int:
        return len(self.annotation)

    def __getitem__(self, index: int) -> Sample | Bad:
        entry = self.annotation[index]
        try:
            return self.sample(entry)
        except BadSample as bad:
            return Bad(str(bad), self.where(entry))

    @property
    def size(self) -> int:
        return len(self)

    def read(
        self, reader: int, readers: int, position: int | None = None
    ) -> Iterator[tuple[Sample | Bad, int | None]]:
        """As `SampleStream.read`; a position is how many entries the reader has read."""
        if not self.training:
            yield from ((self[index], None) for index in range(reader, len(self), readers))
            return
        # The passes follow each other in one endless row, of which a reader takes every `readers`-th: none
        # gets more than another, and none is left without where there are more readers than entries.
        shuffled, order = -1, np.empty(0)
        for taken in count(position or 0):
            number, index = divmod(reader + taken * readers, len(self))
            if number != shuffled:
                shuffled, order = number, np.random.default_rng([self.seed, number]).permutation(len(self))
            yield self[order[index]], taken + 1


def read_annotations(path: str | Path) -> list[Any]:
    """The entries of an annotation file: a list, or a mapping with a list under `annotations`.

    Raises:
        DataError: if there is no such file, or it holds something else.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with or without a mark at its head
    except FileNotFoundError as error:
        raise DataError(f"there is no annotation file {path}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    entries = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(entries, list):
        raise DataError(f"{path} must hold a list of entries, or a mapping with one under 'annotations'")
    return entries


def check_inside(name: str) -> None:
    """Raise ValueError if a name out of an annotation file would leave the folder it is joined to."""
    # Windows' rules know both separators and drives.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{name!r} leaves the folder of the pictures")

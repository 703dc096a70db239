"""How the features of a data set's pictures and videos are written, a file each."""

from collections import Counter
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from minigpt4.common.files import replacing
from minigpt4.common.lock import Lock
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.features.files import FeatureFiles, Look, pack_file
from minigpt4.datasets.features.writer import Job
from minigpt4.datasets.stream import Skipped
from minigpt4.models.image_tokens import TokenShape
from minigpt4.processors.video import Frame

ENTRIES = 256  # of a data set, that are one `Slice`


@dataclass(frozen=True)
class New:
    """Pictures or videos that have no file yet.

    Attributes:
        paths: of the files.
        counts: images of each.
        beside: of each, what stands beside its features.
        images: of all, [N, 3, H, W].
    """

    paths: list[Path]
    counts: list[int]
    beside: list[dict[str, torch.Tensor]]
    images: torch.Tensor

    def __len__(self) -> int:
        return len(self.paths)


class Noting(FeatureFiles):
    """Takes the place of a data set's features while they are made, and notes what has no file yet.

    The data set gets blank pixels in the place of what it shows: its samples are not what is kept.
    """

    def __init__(self, files: FeatureFiles) -> None:
        super().__init__(files.folder, files.shape, files.video)
        self.new: list[tuple[Path, torch.Tensor, dict[str, torch.Tensor]]] = []
        self._frames: dict[Path, int] = {}

    def picture(self, name: str, look: Callable[[str], Look]) -> Look:
        path = self.path(name, video=False)
        if path not in self._frames and not path.is_file():
            image, size = look(name)
            self.new.append((path, image[None], {"size": torch.tensor(size)}))
        self._frames[path] = 1
        return _BLANK, (1, 1)

    def frames(
        self, name: str, look: Callable[[str], list[Frame[torch.Tensor]]]
    ) -> list[Frame[torch.Tensor]]:
        path = self.path(name, video=True)
        if path not in self._frames and path.is_file():
            self._frames[path] = len(super().frames(name, look))
        if path not in self._frames:
            frames = look(name)
            times = torch.tensor([frame.time for frame in frames], dtype=torch.float64)
            self.new.append((path, torch.stack([frame.image for frame in frames]), {"times": times}))
            self._frames[path] = len(frames)
        return [Frame(0.0, _BLANK)] * self._frames[path]

    def take(self) -> New:
        """What was noted since the last call."""
        paths, images, beside = (list(column) for column in zip(*self.new, strict=True))
        self.new = []
        return New(paths, list(map(len, images)), beside, torch.cat(images))


_BLANK = torch.zeros(3, 1, 1, dtype=torch.uint8)


@dataclass(frozen=True)
class Slice(Job):
    """Some entries of a data set, from `first` up to `last`, and the files of what they show."""

    dataset: BaseDataset
    files: FeatureFiles
    first: int
    last: int

    @classmethod
    def all_of(cls, dataset: BaseDataset, out: Path, name: str, batch_size: int) -> "list[Slice]":
        """A data set that is called NAME/SPLIT, in slices."""
        files = FeatureFiles(out / name, None, dataset.video)
        return [
            cls(
                out,
                f"{name}/{first:08d}",
                batch_size,
                dataset,
                files,
                first,
                min(first + ENTRIES, len(dataset)),
            )
            for first in range(0, len(dataset), ENTRIES)
        ]

    @property
    def source(self) -> str:
        return f"entries {self.first} to {self.last}"

    def batches(self) -> Iterator[tuple[New | None, dict[str, int] | None]]:
        dataset, noting, bad = copy(self.dataset), Noting(self.files), Counter()
        dataset.features = noting
        for index in range(self.first, self.last):
            item = dataset[index]
            if isinstance(item, Skipped):
                bad[item.reason] += 1
            if sum(len(images) for _, images, _ in noting.new) >= self.batch_size:
                yield noting.take(), None
        yield noting.take() if noting.new else None, dict(bad)

    def writer(self) -> "FileWriter":
        return FileWriter(self)


class FileWriter:
    """Writes the files of a slice. Raises Held if another process does."""

    def __init__(self, job: Slice) -> None:
        self.job = job
        job.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(job.path.with_name(f".{job.path.name}.lock"))
        self._lock.acquire()

    def add(self, batch: New, features: torch.Tensor) -> None:
        """Write the files of a batch, whose features are [N, P, width]."""
        for path, own, beside in zip(batch.paths, features.split(batch.counts), batch.beside, strict=True):
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(pack_file(own, beside))

    def finish(self, bad: dict[str, int], shape: TokenShape) -> None:
        """Write the record."""
        self.job.finish(self.job.last - self.job.first - sum(bad.values()), bad, shape)
        self._lock.release()

    def abandon(self) -> None:
        """Give the slice up; the files that are there stay."""
        self._lock.release()

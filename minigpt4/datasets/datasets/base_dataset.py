"""Data sets that are a folder of images and files of annotations: the base class for sets of your own."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
import torch

from minigpt4.common.errors import BadSample, CheckpointError, DataError
from minigpt4.common.files import inside, nearest_path
from minigpt4.datasets.datasets.annotation_store import AnnotationStore, store
from minigpt4.datasets.datasets.json_stream import stream_list
from minigpt4.datasets.stream import UNUSABLE, Reading, SampleStream, Skipped
from minigpt4.processors.pictures import read_picture
from minigpt4.processors.subtitles import read_subtitles
from minigpt4.processors.video import Frame, Video, VideoReader, read_frames
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.prompts.sample import Sample

if TYPE_CHECKING:
    from minigpt4.datasets.features.files import FeatureFiles


class Seen(TypedDict, total=False):
    """The images of a `Sample`, or their cached features."""

    image: torch.Tensor
    features: torch.Tensor


class Picture(Seen):
    """What an image file gives a `Sample`."""

    size: tuple[int, int]


def seen(images: Sequence[torch.Tensor]) -> Seen:
    """Images, each [3, H, W], or the features of each, [P, width], as one field of a `Sample`."""
    stacked = torch.stack(list(images))
    return {"features": stacked} if stacked.ndim == 3 else {"image": stacked}


class BaseDataset(SampleStream):
    """Images in a folder and a list of annotations; subclasses say what sample an annotation makes.

    This is the way in for data that is not in the JSONL format (and need not be rewritten):

        class BirdsDataset(BaseDataset):
            REQUIRED_KEYS = ("file", "species")

            def sample(self, entry, rng):
                question = rng.choice(["Which bird is this?", "What is its name?"])
                return Sample(
                    dialogue=Dialogue.of([(f"<Img><ImageHere></Img> {question}", entry["species"])]),
                    image_id=entry["file"],
                    **self.picture(entry["file"]),
                )

    For a caption, `Dialogue.caption(text)`: the model then asks as it asks for all captions.
    `MapStyleBuilder` shows the builder that goes with it.

    In training each epoch has an order that the seed and its number decide, and all readers together read
    each entry once. Indexed, a data set gives a sample or a `Skipped`, with the draws of a first epoch.

    Args:
        vis_processor: pixels [H, W, 3] -> tensor [3, H, W].
        text_processor: text -> text.
        vis_root: the folder of the images; None is the folder of the annotation files.
        ann_paths: JSON files, each a list of entries or a mapping with such a list under `annotations` or
            `data`.
        instructions: wordings to draw from, in place of those of the class's pool.
        options: keyword arguments of `entries`, where a subclass has some.

    Attributes:
        video: how it reads videos, where it has any; its builder sets it.
        features: what was cached of its pictures and videos, which are not looked at then; likewise.

    Raises:
        DataError: for files that are not as they should be.
    """

    REQUIRED_KEYS: ClassVar[tuple[str, ...]] = ()  # what every entry must have
    # The pool that its questions are drawn from; "": only what the user gives; None: its entries hold them.
    INSTRUCTIONS: ClassVar[str | None] = None
    SPLIT_INSIDE: ClassVar[bool] = False  # its files hold all splits: `split` is an option of `entries`

    def __init__(
        self,
        vis_processor: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        vis_root: str | Path | None,
        ann_paths: Sequence[str | Path],
        *,
        instructions: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        self.vis_processor = vis_processor
        self.text_processor = text_processor
        self.video = VideoReader()
        self.features: FeatureFiles | None = None
        self.vis_root = _parent(ann_paths) if vis_root is None else Path(vis_root)
        pool = Instructions.pool(self.INSTRUCTIONS) if self.INSTRUCTIONS else Instructions(())
        self.instructions = pool if instructions is None else Instructions(instructions)
        self.annotation = self.read_entries(ann_paths, **options)
        if not self.annotation:
            raise DataError(f"no entries in {', '.join(map(str, ann_paths))}")
        if not self.vis_root.is_dir():
            root = self.vis_root
            raise DataError(f"the picture folder {root} does not exist{nearest_path(root)}")

    @classmethod
    def sources(cls, path: str | Path, **options: Any) -> list[Path]:
        """The files that `entries` reads for one of `ann_paths`, which may be their folder."""
        return [Path(path)]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        """The entries of an annotation file, one after the other.

        Subclasses override it for other formats, with keyword arguments if they need any. Entries must be
        what JSON can hold: those of a large file are stored, and the file is read again only when it, the
        arguments or the source of the class have changed.

        Raises:
            DataError: if the file cannot be used.
        """
        yield from stream_list(path)

    def read_entries(self, ann_paths: Sequence[str | Path], **options: Any) -> Sequence[Any]:
        """All entries of the annotation files, checked. Raises DataError."""
        return AnnotationStore(
            [
                store(
                    self.sources(path, **options),
                    partial(self._checked_entries, path, options),
                    type(self),
                    options,
                )
                for path in ann_paths
            ]
        )

    def _checked_entries(self, path: str | Path, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for number, entry in enumerate(self.entries(path, **options)):
            try:
                self.check_entry(entry)
            except ValueError as error:
                raise DataError(f"{path}, entry {number}: {error}") from error
            yield entry

    def check_entry(self, entry: Any) -> None:
        """Raise ValueError if an entry cannot be used, whatever its image is."""
        if not isinstance(entry, dict):
            raise ValueError(f"{entry!r} is not a mapping")
        missing = [key for key in self.REQUIRED_KEYS if key not in entry]
        if missing:
            raise ValueError(f"{missing[0]!r} is missing (it has {', '.join(map(repr, entry)) or 'nothing'})")

    def sample(self, entry: Any, rng: random.Random) -> Sample:
        """The sample that an entry makes.

        Args:
            entry: of the annotations.
            rng: for what is drawn at random, e.g. a template. It is seeded by seed, epoch and entry: another
                source of randomness would not survive a resume.

        Raises:
            BadSample: to skip the entry, with the reason that is counted.
        """
        raise NotImplementedError

    def where(self, index: int) -> str:
        """What an entry is called when it is skipped."""
        return f"entry {index}"

    def picture(self, name: str) -> Picture:
        """The image file of that path below `vis_root`, as `image` [3, H, W] and its original `size`.

        Raises:
            BadSample: if it is missing, outside the folder, or cannot be decoded.
        """
        image, size = self.look(name)
        return {"image": image, "size": size} if image.ndim == 3 else {"features": image, "size": size}

    def look(self, name: str) -> tuple[torch.Tensor, tuple[int, int]]:
        """As `picture`: pixels [3, H, W] or cached features [P, width], and (height, width)."""
        return self.features.picture(name, self._pixels) if self.features else self._pixels(name)

    def _pixels(self, name: str) -> tuple[torch.Tensor, tuple[int, int]]:
        path = self._file(name, "image")
        try:
            pixels = read_picture(path)
        except OSError as error:
            raise BadSample("unreadable image") from error
        return self.vis_processor(pixels), (pixels.shape[0], pixels.shape[1])

    def watch(self, name: str, subtitles: str | Path | None = None) -> Video[torch.Tensor]:
        """The video of that path below `vis_root`, with its subtitles, if there are any.

        Args:
            name: of the video.
            subtitles: likewise a name below `vis_root`; a `Path` is taken as it is.

        Raises:
            BadSample: if one is missing, outside the folder, or cannot be read.
        """
        words = self._file(subtitles, "subtitles") if isinstance(subtitles, str) else subtitles
        frames = self.features.frames(name, self._frames) if self.features else self._frames(name)
        try:
            return self.video.with_words(frames, words and read_subtitles(words))
        except OSError as error:
            raise BadSample("unreadable subtitles") from error

    def _frames(self, name: str) -> list[Frame[torch.Tensor]]:
        path = self._file(name, "video")
        try:
            return read_frames(path, self.vis_processor, self.video.frames, self.video.sampling)
        except OSError as error:
            raise BadSample("unreadable video") from error

    def _file(self, name: str, kind: str) -> Path:
        """The path of a file below `vis_root`. Raises BadSample."""
        try:
            path = inside(self.vis_root, name)
        except ValueError as error:
            raise BadSample(f"{kind} outside its folder") from error
        if not os.path.isfile(path):  # unlike Path.is_file, this never raises
            raise BadSample(f"missing {kind}")
        return path

    def __len__(self) -> int:
        return len(self.annotation)

    @property
    def size(self) -> int:
        return len(self)

    def __getitem__(self, index: int) -> Sample | Skipped:
        return self._sample(index, Reading().rng(0, index))

    def _sample(self, index: int, rng: random.Random) -> Sample | Skipped:
        entry = self.annotation[index]
        try:
            return self.sample(entry, rng)
        except UNUSABLE as error:
            return Skipped.because(error, self.where(index))

    def read(self, reading: Reading) -> Iterator[tuple[Sample | Skipped, int | None]]:
        """As `SampleStream.read`; a position is how many entries the reader has read."""
        if not reading.training:
            for index in range(reading.reader, len(self), reading.readers):
                yield self._sample(index, reading.rng(0, index)), None
            return
        # The epochs follow each other in one endless row, of which a reader takes every `readers`-th entry:
        # none gets more than another, and none goes without where there are more readers than entries.
        shuffled, order = -1, np.empty(0)
        position = reading.position or 0
        if type(position) is not int or position < 0:
            raise CheckpointError(f"run.resume_ckpt_path: {position!r} is not a number of entries read")
        for taken in count(position):
            epoch, place = divmod(reading.reader + taken * reading.readers, len(self))
            if epoch != shuffled:
                shuffled, order = epoch, np.random.default_rng([reading.seed, epoch]).permutation(len(self))
            index = int(order[place])
            yield self._sample(index, reading.rng(epoch, index)), taken + 1


def _parent(paths: Sequence[str | Path]) -> Path:
    """The folder that files are in. Raises DataError if they are in several."""
    folders = {Path(path).parent for path in paths}
    if len(folders) > 1:
        raise DataError(
            f"the files are in {len(folders)} folders: please set `image_path`, the folder that "
            "the paths of all pictures are relative to"
        )
    return folders.pop()

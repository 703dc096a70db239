"""Images of your own with captions, questions or conversations, from JSONL files."""

import random
from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from minigpt4.common.errors import BadSample, DataError
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.jsonl_format import MAX_LINE, Ids, check_line, read_lines
from minigpt4.datasets.stream import clean_caption
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample

SHOWN_PROBLEMS = 5


@dataclass(frozen=True)
class LineLocation:
    """Where a line is in its file."""

    path: Path
    number: int
    offset: int

    def __str__(self) -> str:
        return f"{self.path}:{self.number}"


class LineIndex(Sequence[LineLocation]):
    """The lines of some files, of which 8 bytes each are kept in memory.

    Raises:
        DataError: if a line cannot be used, naming the first such.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [Path(path) for path in paths]
        self._offsets = [self._scan(path) for path in self.paths]
        self._ends: list[int] = []  # how many lines there are up to the end of each file
        for offsets in self._offsets:
            self._ends.append(len(offsets) + (self._ends[-1] if self._ends else 0))

    def _scan(self, path: Path) -> array:
        offsets, ids, problems, bad = array("q"), Ids(), [], 0
        for line in read_lines(path):
            offsets.append(line.offset)
            ids.add(line)
            if line.entry is None:
                bad += 1
                problems += [f"{path}:{line.number}: {line.problems[0]}"] * (bad <= SHOWN_PROBLEMS)
        for number, problem in ids.repeated():
            bad += 1
            problems += [f"{path}:{number}: {problem}"] * (bad <= SHOWN_PROBLEMS)
        if bad:
            command = f"minigpt4 validate {path}"
            raise DataError(
                f"{bad} line{'s' * (bad > 1)} of {path} cannot be used (`{command}` lists all):\n  "
                + "\n  ".join(problems)
            )
        return offsets

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> LineLocation:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        number = int(index) - (self._ends[file - 1] if file else 0)
        return LineLocation(self.paths[file], number + 1, self._offsets[file][number])


class JsonlDataset(BaseDataset):
    """The project's own format; dataset/README_YOUR_DATA.md describes it.

    Args:
        vis_processor: see `BaseDataset`.
        text_processor: for captions; questions and answers stay as they are.
        vis_root: the folder of the images; None is the folder of the files.
        ann_paths: JSONL files.

    Raises:
        DataError: for a file with a line that cannot be used. Whether the images exist is not checked.
    """

    def __init__(
        self,
        vis_processor: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        vis_root: str | Path | None,
        ann_paths: Sequence[str | Path],
    ) -> None:
        folders = {Path(path).parent for path in ann_paths}
        if vis_root is None and len(folders) > 1:
            raise DataError(
                f"the files are in {len(folders)} folders: please set `image_path`, the folder that "
                "the paths of all pictures are relative to"
            )
        root = folders.pop() if vis_root is None else vis_root
        super().__init__(vis_processor, text_processor, root, ann_paths)

    def read_entries(self, ann_paths: Sequence[str | Path]) -> LineIndex:
        return LineIndex(ann_paths)

    def where(self, index: int) -> str:
        return str(self.annotation[index])

    def sample(self, entry: LineLocation, rng: random.Random) -> Sample:
        with open(entry.path, "rb") as stream:
            stream.seek(entry.offset)
            said, _ = check_line(stream.readline(MAX_LINE))
        if said is None:
            raise BadSample("line changed since the start")
        answers = said.answers
        if said.kind == "caption":
            answers = [clean_caption(answers[0], self.text_processor)]
        pictures = [self.picture(name) for name in said.images]
        return Sample(
            dialogue=Dialogue.of(zip(said.questions, answers, strict=True)),
            image=torch.stack([picture["image"] for picture in pictures]),
            size=pictures[0]["size"] if len(pictures) == 1 else None,
            image_id=said.id or str(entry),
            group=said.group,
        )

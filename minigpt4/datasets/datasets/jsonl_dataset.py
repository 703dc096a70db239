"""Images of your own with captions, questions or conversations, from JSONL files."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.jsonl_format import Ids, read_lines
from minigpt4.datasets.stream import clean_caption
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample

SHOWN_PROBLEMS = 5


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

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        """What the lines say, and where each is. Raises DataError at the end if one cannot be used."""
        ids, problems, bad = Ids(), [], 0
        for line in read_lines(path):
            ids.add(line)
            if line.entry is not None:
                yield asdict(line.entry) | {"line": f"{path}:{line.number}"}
                continue
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

    def where(self, index: int) -> str:
        return self.annotation[index]["line"]

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        answers = entry["answers"]
        if entry["kind"] == "caption":
            answers = [clean_caption(answers[0], self.text_processor)]
        pictures = [self.picture(name) for name in entry["images"]]
        return Sample(
            dialogue=Dialogue.of(zip(entry["questions"], answers, strict=True)),
            image=torch.stack([picture["image"] for picture in pictures]),
            size=pictures[0]["size"] if len(pictures) == 1 else None,
            image_id=entry["id"] or entry["line"],
            group=entry["group"],
        )

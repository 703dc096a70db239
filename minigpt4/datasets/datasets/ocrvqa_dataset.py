"""OCR-VQA (Mishra et al. 2019): questions about the covers of books."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.json_stream import stream_mapping
from minigpt4.datasets.datasets.vqa_datasets import VQADataset
from minigpt4.prompts.sample import Sample

SPLITS = {"train": 1, "val": 2, "test": 3}


class OCRVQADataset(VQADataset):
    """`dataset.json`: `{KEY: {"imageURL": "…", "questions": […], "answers": […], "split": 1}}`.

    A picture is called KEY, with the suffix of its address or with `.jpg`. One entry per question.
    """

    SPLIT_INSIDE = True

    @classmethod
    def entries(cls, path: str | Path, split: str = "train") -> Iterator[dict[str, Any]]:
        """The questions of one split. Raises DataError if the file has another form."""
        if split not in SPLITS:
            raise DataError(f"{path} has no split {split!r} (it has {', '.join(SPLITS)})")
        for key, cover in stream_mapping(path):
            try:
                if cover["split"] != SPLITS[split]:
                    continue
                image = key + (os.path.splitext(cover["imageURL"])[1] or ".jpg")
                for question, answer in zip(cover["questions"], cover["answers"], strict=True):
                    yield {"image": image, "question": question, "answer": answer, "question_id": key}
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise DataError(f"{path}: {key!r} is not a cover with its questions ({error!r})") from error

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        if not os.path.exists(self.vis_root / entry["image"]):
            entry = entry | {"image": f"{entry['question_id']}.jpg"}
        return super().sample(entry, rng)

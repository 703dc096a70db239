"""Images with one caption each."""

import os
import random
from typing import Any

from minigpt4.common.files import check_inside
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.stream import clean_caption
from minigpt4.processors.pictures import IMAGE_SUFFIXES
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class CCSBUAlignDataset(BaseDataset):
    """Stage 2's pairs: `{"image_id": "2", "caption": "..."}` beside the image `2.jpg`, or `2.png` and so on.

    Captions stay as they were written, with capitals and punctuation: they are what the model will talk
    like. (The original names a text processor in the YAML, and does not call it either.) A key `group`
    can say which kind of sample it is; evaluation reports each group separately.
    """

    INSTRUCTIONS = ""
    REQUIRED_KEYS = ("image_id", "caption")

    def check_entry(self, entry: Any) -> None:
        super().check_entry(entry)
        if not isinstance(entry["image_id"], str | int):
            raise ValueError(f"'image_id' is {entry['image_id']!r}, it must be text or a number")
        check_inside(f"{entry['image_id']}.jpg")

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        names = [f"{entry['image_id']}.{suffix}" for suffix in IMAGE_SUFFIXES]
        there = (name for name in names if os.path.exists(self.vis_root / name))
        return Sample(
            dialogue=Dialogue.about_image(self.instructions.ask(rng), clean_caption(entry["caption"])),
            image_id=str(entry["image_id"]),
            group=str(entry.get("group", "")),
            **self.picture(next(there, names[0])),
        )

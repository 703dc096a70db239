"""COCO's captions (Chen et al. 2015), in Karpathy's splits."""

import random
from typing import Any

from minigpt4.common.errors import BadSample
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.coco_pictures import CocoPictures
from minigpt4.datasets.stream import clean_caption
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class CaptionDataset(BaseDataset):
    """Pictures with a short caption, or with several of which training draws one."""

    INSTRUCTIONS = "caption"

    def captioned(self, image: str, captions: Any, image_id: Any, rng: random.Random) -> Sample:
        """A sample that asks for a caption of one picture."""
        given = captions if isinstance(captions, list) else [captions]
        if not given:
            raise BadSample("no caption")
        caption = clean_caption(rng.choice(given), self.text_processor)
        return Sample(
            dialogue=Dialogue.about_image(self.instructions.ask(rng), caption),
            image_id=str(image_id),
            references=tuple(map(str, given)),
            **self.picture(image),
        )


class COCOCapDataset(CocoPictures, CaptionDataset):
    """`{"image": "train2014/COCO_train2014_….jpg", "image_id": "coco_9", "caption": "…"}`."""

    REQUIRED_KEYS = ("image", "image_id", "caption")

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        return self.captioned(entry["image"], entry["caption"], entry["image_id"], rng)

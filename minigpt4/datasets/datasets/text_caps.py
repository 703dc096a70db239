"""TextCaps (Sidorov et al. 2020): captions that read what is written in the picture."""

import random
from typing import Any

from minigpt4.datasets.datasets.coco_caption import CaptionDataset
from minigpt4.prompts.sample import Sample


class TextCapDataset(CaptionDataset):
    """`{"data": [{"image_id": "0054c91397f2fe05", "caption_str": "…"}]}`; the picture is `IMAGE_ID.jpg`."""

    REQUIRED_KEYS = ("image_id", "caption_str")

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        return self.captioned(f"{entry['image_id']}.jpg", entry["caption_str"], entry["image_id"], rng)

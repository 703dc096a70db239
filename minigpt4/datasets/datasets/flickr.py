"""Flickr30k Entities (Plummer et al. 2015) as filtered for MiniGPT-v2: texts with boxes on the grid."""

import random
from typing import Any

from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.stream import clean_text
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class FlickrDataset(BaseDataset):
    """The picture of an entry is `IMAGE_ID.jpg`. Texts stay as they are written."""

    def grounded(self, entry: dict[str, Any], question: str | None, answer: str) -> Sample:
        """The sample of one picture."""
        return Sample(
            dialogue=Dialogue.about_image(question, clean_text(answer, str, "answer")),
            image_id=str(entry["image_id"]),
            **self.picture(f"{entry['image_id']}.jpg"),
        )


class GroundedDetailDataset(FlickrDataset):
    """`{"image_id": "…", "grounded_caption": "<p>A man</p> {<1><2><3><4>} with …"}`."""

    REQUIRED_KEYS = ("image_id", "grounded_caption")
    INSTRUCTIONS = "grounding"

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        return self.grounded(entry, self.instructions.ask(rng), entry["grounded_caption"])


class CaptionToObjectDataset(FlickrDataset):
    """`{"image_id": "…", "caption": "…", "output": "<p>A man</p> {<1><2><3><4>} with …"}`."""

    REQUIRED_KEYS = ("image_id", "caption", "output")
    INSTRUCTIONS = "detection"

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        caption = clean_text(entry["caption"], str, "caption")
        return self.grounded(entry, self.instructions.about(caption, rng), entry["output"])


class PhraseToObjectDataset(FlickrDataset):
    """`{"image_id": "…", "phrase": "a man", "bbox": "{<1><2><3><4>}"}`."""

    REQUIRED_KEYS = ("image_id", "phrase", "bbox")
    INSTRUCTIONS = "detection"

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        phrase = clean_text(entry["phrase"], str, "phrase")
        answer = f"<p>{phrase}</p> {clean_text(entry['bbox'], str, 'box')}"
        return self.grounded(entry, self.instructions.about(phrase, rng), answer)

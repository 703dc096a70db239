"""Pictures with one caption each."""

from typing import Any

from minigpt4.datasets.datasets.base_dataset import BaseDataset, check_caption, check_inside
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class CCSBUAlignDataset(BaseDataset):
    """Stage 2's pairs: `{"image_id": "2", "caption": "..."}` beside the picture `2.jpg`.

    Captions stay as they were written, capitals, full stops and all: they are what the model will talk
    like. (The original names a text processor in the YAML, and does not call it either.) A key `group`
    may say which kind of sample it is, and evaluation reports each by itself.
    """

    REQUIRED_KEYS = ("image_id", "caption")

    def check_entry(self, entry: Any) -> None:
        super().check_entry(entry)
        if not isinstance(entry["image_id"], str | int):
            raise ValueError(f"'image_id' is {entry['image_id']!r}, it must be a text or a number")
        check_inside(self.picture_name(entry))

    def picture_name(self, entry: dict[str, Any]) -> str:
        return f"{entry['image_id']}.jpg"

    def sample(self, entry: dict[str, Any]) -> Sample:
        return Sample(
            dialogue=Dialogue.caption(check_caption(entry["caption"])),
            image=self.picture(entry),
            image_id=str(entry["image_id"]),
            group=str(entry.get("group", "")),
        )

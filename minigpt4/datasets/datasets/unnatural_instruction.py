"""Unnatural Instructions (Honovich et al. 2022): text alone, so that the model does not forget to talk."""

import random
from typing import Any

from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.stream import clean_text
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class UnnaturalDataset(BaseDataset):
    """`{"instances": [{"instruction_with_input": "…", "constraints": "…" or null, "output": "…"}]}`."""

    REQUIRED_KEYS = ("instances",)

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        one = entry["instances"][0]
        parts = [one["instruction_with_input"], one.get("constraints")]
        question = " ".join(clean_text(part, str, "instruction") for part in parts if part is not None)
        turns = [(self.text_processor(question), clean_text(one["output"], self.text_processor, "answer"))]
        return Sample(dialogue=Dialogue.of(turns))

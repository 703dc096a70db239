"""Questions about one picture with a short answer."""

import random
from typing import Any, ClassVar

from minigpt4.common.errors import BadSample
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.stream import clean_text
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class VQADataset(BaseDataset):
    """Entries with a question, its answer or answers, and a picture.

    Several answers are those of several people. Training draws one of them, so that an answer is seen as
    often as it was given; evaluation is told all of them.
    """

    REQUIRED_KEYS = ("image", "question", "answer")
    INSTRUCTIONS = "vqa"
    ANSWER: ClassVar[str] = "answer"  # the key of the answers

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        question = clean_text(entry["question"], self.text_processor, "question")
        given = entry[self.ANSWER]
        answers = given if isinstance(given, list) else [given]
        if not answers:
            raise BadSample("no answer")
        answer = clean_text(rng.choice(answers), self.text_processor, "answer")
        return Sample(
            dialogue=Dialogue.about_image(self.instructions.about(question, rng), answer),
            image_id=str(entry.get("question_id", entry["image"])),
            references=tuple(map(str, answers)),
            **self.picture(entry["image"]),
        )

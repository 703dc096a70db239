"""LLaVA-Instruct-150K (Liu et al. 2023): what GPT-4 said about COCO's pictures, which it did not see."""

import random
from typing import Any, ClassVar

from minigpt4.common.errors import BadSample
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.coco_pictures import train2014
from minigpt4.datasets.stream import clean_text
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.templates import IMAGE_TURN

ROLES = ("human", "gpt")


class LlavaConversationDataset(BaseDataset):
    """`{"id": "000000000009", "conversations": [{"from": "human", "value": "<image>\\n…"}, …]}`.

    The image goes before the first question. All answers are learned.
    """

    REQUIRED_KEYS = ("id", "conversations")
    PROCESSED: ClassVar[bool] = False  # whether questions go through the text processor, as in the original

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        turns = entry["conversations"]
        if not turns or [turn["from"] for turn in turns] != [*ROLES] * (len(turns) // 2):
            raise BadSample("human and gpt do not alternate")
        first, *others = [turn["value"] for turn in turns]
        first = clean_text(first, str, "question").replace("<image>", "").replace("\n", "")
        processor = self.text_processor if self.PROCESSED else str
        questions = [clean_text(text.strip(), processor, "question") for text in (first, *others[1::2])]
        answers = [clean_text(text, str, "answer") for text in others[::2]]
        return Sample(
            dialogue=Dialogue.of(zip([IMAGE_TURN + questions[0], *questions[1:]], answers, strict=True)),
            image_id=str(entry["id"]),
            **self.picture(train2014(entry["id"])),
        )


class LlavaDetailDataset(LlavaConversationDataset):
    """Detailed descriptions: one question, one answer."""

    PROCESSED = True


class LlavaReasonDataset(LlavaConversationDataset):
    """Questions that need reasoning: one question, one answer."""

    PROCESSED = True

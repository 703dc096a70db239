"""Short answers to questions, right where they say the same whatever their case, punctuation and articles."""

import re
import unicodedata

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, accuracy_metrics

ARTICLES = {"a", "an", "the"}
DECIMAL_POINT = re.compile(r"(?<=\d)\.(?=\d)")


def normalized(answer: str) -> str:
    """Lower-cased, punctuation and articles removed; each only where something is left without it."""
    parts = DECIMAL_POINT.split(answer.lower())
    text = ".".join("".join(c for c in part if unicodedata.category(c)[0] != "P") for part in parts)
    words = (text if text.strip() else answer.lower()).split()
    return " ".join([word for word in words if word not in ARTICLES] or words)


@registry.register_task("short_answer")
class ShortAnswerTask(BaseTask):
    """Questions whose answer is right or wrong. The most accurate checkpoint is the best one."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every question is answered: the accuracy decides which checkpoint is the best."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            record.prediction = answer
            right = {normalized(one) for one in record.answers}
            record.scores["accuracy"] = float(normalized(answer) in right)

    def summarize(self, records: list[Record]) -> Metrics:
        """The accuracy, of all and of each group."""
        return accuracy_metrics(records)

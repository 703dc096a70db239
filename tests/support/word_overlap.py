"""A task outside the package, found by its import path: how many words a prediction shares with the truth."""

import re

from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, mean_score


class WordOverlapTask(BaseTask):
    """The most overlapping checkpoint is the best one; no loss is taken of held-out data."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every sample is predicted, and scored by the shared part of all its words."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            said, true = (set(re.findall(r"\w+", text.lower())) for text in (answer, record.truth))
            record.prediction = answer
            record.scores["overlap"] = len(said & true) / len(said | true)

    def summarize(self, records: list[Record]) -> Metrics:
        """The mean overlap, and the mean length of predictions beside it."""
        words = [len((record.prediction or "").split()) for record in records]
        values = mean_score(records, "overlap") | {"words": sum(words) / len(words)}
        return Metrics(values, best="overlap", higher_is_better=True, percentages=frozenset({"overlap"}))

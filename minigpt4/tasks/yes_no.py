"""Yes or no, with how sure the model is: accuracy and the area under the ROC curve."""

import math
from collections.abc import Sequence

import numpy as np

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.choose import candidate_losses
from minigpt4.tasks.intervals import Interval, resampled
from minigpt4.tasks.records import Metrics, Record, accuracy_metrics
from minigpt4.tasks.short_answer import normalized

YES_NO = ("yes", "no")
SURENESS = "probability_of_yes"


def roc_auc(scores: Sequence[float], positive: Sequence[bool]) -> float:
    """The share of pairs of a positive and a negative in which the positive scores higher, equal ones half.

    NaN where there is only one kind.
    """
    values, truths = np.asarray(scores, dtype=float), np.asarray(positive, dtype=bool)
    count = int(truths.sum())
    pairs = count * (len(truths) - count)
    if not pairs:
        return math.nan
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # equal scores share the middle of their ranks
    return float((ranks[truths].sum() - count * (count + 1) / 2) / pairs)


@registry.register_task("yes_no")
class YesNoTask(BaseTask):
    """Questions that are answered by yes or no (Hateful Memes, POPE). The most accurate is the best."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every question is answered, and "yes" is weighed against "no"."""
        answers = self.predict(model, batch, len(records))
        losses = candidate_losses(model, batch, [YES_NO] * len(records))
        for record, answer, (yes, no) in zip(records, answers, losses, strict=True):
            record.prediction = answer
            record.scores["accuracy"] = float(normalized(answer) == normalized(record.truth))
            record.scores[SURENESS] = 1 / (1 + math.exp(min(yes - no, 500.0)))

    def summarize(self, records: list[Record]) -> Metrics:
        """The accuracy, the share of "yes", and the area under the ROC curve."""
        metrics = accuracy_metrics(records)
        values = {**metrics.values, "auc": _auc(records)}
        return Metrics(values, best="accuracy", higher_is_better=True, percentages=metrics.percentages)

    def intervals(self, records: list[Record]) -> dict[str, Interval]:
        """Of the area under the curve by resampling."""
        bounds = {name: one for name, one in super().intervals(records).items() if SURENESS not in name}
        return bounds | {"auc": resampled(records, _auc)}


def _auc(records: Sequence[Record]) -> float:
    positive = [normalized(record.truth) == YES_NO[0] for record in records]
    return roc_auc([record.scores[SURENESS] for record in records], positive)

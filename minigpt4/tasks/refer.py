"""Referring expressions: the box that an expression names, one answer per expression."""

import re

from minigpt4.common.errors import DataError
from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.boxes import iou, parse_boxes
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, mean_score

# A box is right where it overlaps the true one by more than this (Yu et al. 2016, RefCOCO).
RIGHT = 0.5
_NUMBER = re.compile(r"<(\d{1,3}(?:\.\d+)?)>")


def true_box(text: str) -> list[float]:
    """The box that annotators drew, `{<x1><y1><x2><y2>}` on the grid, with or without fractions.

    The overlap on the grid is that in pixels: both axes are only scaled.

    Raises:
        DataError: if the text is not one box.
    """
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) != 4:
        raise DataError(f"the truth of a referring expression must be one box {{<x1><y1><x2><y2>}}: {text!r}")
    return numbers


@registry.register_task("refer")
class ReferTask(BaseTask):
    """`[refer] …` is answered by a box; the checkpoint with the most right boxes is the best one."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """The first box of every answer is compared with the truth; an answer without one is wrong."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            boxes = parse_boxes(answer)
            overlap = iou(boxes[0], true_box(record.truth)) if boxes else 0.0
            record.prediction = answer
            record.scores |= {
                "accuracy": float(overlap > RIGHT),
                "iou": overlap,
                "parsed": float(bool(boxes)),
            }

    def summarize(self, records: list[Record]) -> Metrics:
        """Accuracy at IoU 0.5, of all and of each group; the mean IoU; the share of answers with a box."""
        accuracy = mean_score(records, "accuracy")
        parsed = mean_score(records, "parsed")["parsed"]
        values = {**accuracy, "iou": mean_score(records, "iou")["iou"], "parsed": parsed}
        return Metrics(
            values, best="accuracy", higher_is_better=True, percentages=frozenset({*accuracy, "parsed"})
        )

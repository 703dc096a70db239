"""Grounded texts: `<p>phrase</p> {box}`, as captions with boxes and detection have them."""

from collections.abc import Sequence

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.boxes import Box, iou, parse_phrases, without_boxes
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record, mean_score
from minigpt4.tasks.refer import RIGHT
from minigpt4.tasks.short_answer import normalized


def grounded_scores(answer: str, truth: str) -> dict[str, float]:
    """How far an answer names the phrases of the truth, and puts the right boxes behind them.

    Returns:
        boxes: F1 of its boxes; one is right where it overlaps a true box of the same phrase by IoU > 0.5,
            each true box once.
        phrases: the share of the true phrases that it names.
        parsed: 1 if every `<p>` is closed and followed by a box, and nothing else looks like a box.
    """
    said, true = parse_phrases(answer), parse_phrases(truth)
    left = [*said]
    named = right = 0
    for phrase in true:
        same = next((one for one in left if normalized(one.text) == normalized(phrase.text)), None)
        if same is not None:
            left.remove(same)
            named += 1
            right += overlapping(same.boxes, phrase.boxes)
    boxes = sum(len(one.boxes) for one in (*said, *true))
    return {
        "boxes": 2 * right / boxes if boxes else 1.0,
        "phrases": named / len(true) if true else 1.0,
        "parsed": float(len(said) == answer.count("<p>") and not {*"{}<>"} & {*without_boxes(answer)}),
    }


def overlapping(said: Sequence[Box], true: Sequence[Box]) -> int:
    """How many pairs of a box and a true one overlap by IoU > 0.5, the best pairs first, each box once."""
    pairs = sorted(((iou(a, b), i, j) for i, a in enumerate(said) for j, b in enumerate(true)), reverse=True)
    taken: set[tuple[str, int]] = set()
    count = 0
    for overlap, i, j in pairs:
        if overlap > RIGHT and not taken & {("said", i), ("true", j)}:
            taken |= {("said", i), ("true", j)}
            count += 1
    return count


@registry.register_task("grounded_caption")
class GroundedCaptionTask(BaseTask):
    """`[grounding] …` and `[detection] …`; the checkpoint with the best boxes is the best one."""

    def score(self, model: MiniGPTBase, batch: Batch, records: list[Record], predictions: int) -> None:
        """Every sample is answered, and its phrases and boxes are compared with the truth."""
        for record, answer in zip(records, self.predict(model, batch, len(records)), strict=True):
            record.prediction = answer
            record.scores |= grounded_scores(answer, record.truth)

    def summarize(self, records: list[Record]) -> Metrics:
        """The means of what `grounded_scores` gives, of all and of each group."""
        values = mean_score(records, "boxes") | mean_score(records, "phrases") | mean_score(records, "parsed")
        return Metrics(values, best="boxes", higher_is_better=True, percentages=frozenset(values))

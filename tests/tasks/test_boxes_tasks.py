"""The tasks `refer` and `grounded_caption`, on boxes whose overlap is computed by hand."""

import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.tasks.grounded_caption import GroundedCaptionTask, grounded_scores
from minigpt4.tasks.refer import ReferTask, true_box

QUESTION = "<Img><ImageHere></Img> [refer] where is the dog?"
PICTURE = torch.zeros((3, 56, 56), dtype=torch.uint8)


class Says:
    """Predicts given answers, in order."""

    def __init__(self, *answers: str) -> None:
        self.answers = [*answers]

    def predict(self, model, batch, count) -> list[str]:
        return [self.answers.pop(0) for _ in range(count)]


class SaysBoxes(Says, ReferTask):
    pass


class SaysPhrases(Says, GroundedCaptionTask):
    pass


def evaluated(task, model, truths: list[str], image_ids: list[str]):
    samples = [
        Sample(dialogue=Dialogue.of([(QUESTION, truth)]), image=PICTURE, image_id=name)
        for truth, name in zip(truths, image_ids, strict=True)
    ]
    return task.evaluate(model, [Batch.of(samples)])


def test_refer_scores_each_expression_of_an_image(golden_model) -> None:
    """Three expressions of one image, the fault of the original's script, which keeps one list per image."""
    truths = ["{<0><0><50><100>}", "{<50><0><100><100>}", "{<0><0><10.5><10>}"]
    task = SaysBoxes(
        "{<0><0><60><100>}",  # 5000 / 6000
        "{<0><0><50><100>}",  # beside it
        "it is at { <0> <0> <21> <10> }",  # 105 / 210: half, which is not more than half
    )
    records = evaluated(task, golden_model, truths, ["same"] * 3)
    assert [record.scores["iou"] for record in records] == pytest.approx([5 / 6, 0.0, 0.5])
    assert [record.scores["accuracy"] for record in records] == [1.0, 0.0, 0.0]
    metrics = task.summarize(records)
    assert metrics.values == pytest.approx({"accuracy": 1 / 3, "iou": (5 / 6 + 0.5) / 3, "parsed": 1.0})
    assert (metrics.best, metrics.percentages) == ("accuracy", {"accuracy", "parsed"})


def test_refer_answers_without_a_box_are_wrong(golden_model) -> None:
    task = SaysBoxes("on the left", "{<1><2><3>}", "{<5><5><1><1>}")
    records = evaluated(task, golden_model, ["{<0><0><50><50>}"] * 3, ["1", "2", "3"])
    assert task.summarize(records).values == {"accuracy": 0.0, "iou": 0.0, "parsed": 0.0}


def test_refer_needs_one_true_box() -> None:
    assert true_box("{<1><2.25><30><100>}") == [1, 2.25, 30, 100]
    for text in ("a dog", "{<1><2><3><4>}<delim>{<1><2><3><4>}"):
        with pytest.raises(DataError, match="must be one box"):
            true_box(text)


TRUTH = "<p>A dog</p> {<0><0><50><50>}<delim>{<50><50><100><100>} on <p>grass</p> {<0><60><100><100>}"


@pytest.mark.parametrize(
    ("answer", "parsed", "phrases", "boxes"),
    [
        (TRUTH, 1.0, 1.0, 1.0),
        ("<p>dog</p> {<50><50><100><100>} and <p>grass</p> {<0><0><9><9>}", 1.0, 1.0, 2 * 1 / 5),
        # One box twice is right once.
        ("<p>the dog</p> {<0><0><50><50>}<delim>{<0><0><50><50>}", 1.0, 0.5, 2 * 1 / 5),
        ("<p>cat</p> {<0><0><50><50>}", 1.0, 0.0, 0.0),
        ("<p>dog</p> {<0><0><50>", 0.0, 0.0, 0.0),
        ("<p>dog {<0><0><50><50>}", 0.0, 0.0, 0.0),
        ("a dog on grass", 1.0, 0.0, 0.0),
    ],
)
def test_grounded_scores_by_hand(answer, parsed, phrases, boxes) -> None:
    assert grounded_scores(answer, TRUTH) == pytest.approx(
        {"parsed": parsed, "phrases": phrases, "boxes": boxes}
    )


def test_grounded_scores_where_nothing_is_to_be_found() -> None:
    assert grounded_scores("nothing", "nothing") == {"parsed": 1.0, "phrases": 1.0, "boxes": 1.0}
    assert grounded_scores("<p>dog</p> {<0><0><5><5>}", "nothing")["boxes"] == 0.0


def test_grounded_caption_task_means_over_samples(golden_model) -> None:
    task = SaysPhrases(TRUTH, "<p>grass</p> {<0><60><100><100>}")
    metrics = task.summarize(evaluated(task, golden_model, [TRUTH] * 2, ["1", "2"]))
    assert metrics.values == pytest.approx({"boxes": (1 + 2 / 4) / 2, "phrases": 0.75, "parsed": 1.0})
    assert metrics.best == "boxes"

"""The task `caption`: metrics against recorded values of another package, and what a record holds."""

import random

import pytest

from minigpt4.tasks import caption
from minigpt4.tasks.caption import CaptionTask, caption_scores
from minigpt4.tasks.records import Record

pytest.importorskip("pycocoevalcap")
WORDS = ["a", "the", "red", "blue", "big", "small", "dog", "cat", "sits", "runs", "on", "under", "grass"]
WORDS += ["sofa", "near", "two"]


@pytest.fixture(autouse=True)
def no_java(monkeypatch) -> None:
    """Starting Java takes seconds; on these words, its tokenizer does what ours does."""
    monkeypatch.setattr(caption.shutil, "which", lambda name: None)


def drawn() -> tuple[list[str], list[list[str]]]:
    """Forty pictures with three captions each, and predictions with one wrong word."""
    draws = random.Random(0)

    def one() -> str:
        return " ".join(draws.choice(WORDS) for _ in range(draws.randrange(5, 12)))

    references, predictions = [[one() for _ in range(3)] for _ in range(40)], []
    for own in references:
        words = draws.choice(own).split()
        words[draws.randrange(len(words))] = draws.choice(WORDS)
        predictions.append(" ".join(words))
    return predictions, references


def test_bleu_is_that_of_torchmetrics() -> None:
    """Recorded, see tests/golden/README.md."""
    values, _ = caption_scores(*drawn())
    assert values["bleu_4"] == pytest.approx(0.7641, abs=5e-5)


def test_rouge_l_by_hand() -> None:
    """The longest common subsequence of `a dog sits` and `a big dog sits here` has three words."""
    values, each = caption_scores(["A dog sits.", "x"], [["a big dog sits here"], ["y"]])
    precision, recall, beta = 3 / 3, 3 / 5, 1.2
    score = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert list(each["rouge_l"]) == pytest.approx([score, 0.0])
    assert values["rouge_l"] == pytest.approx(score / 2)


def test_cider_is_highest_for_what_people_wrote() -> None:
    predictions, references = drawn()
    right, _ = caption_scores([own[0] for own in references], references)
    wrong, _ = caption_scores(predictions[::-1], references)
    assert right["cider"] > caption_scores(predictions, references)[0]["cider"] > wrong["cider"] + 1


def test_caption_task_fills_in_the_scores_of_records() -> None:
    predictions, references = drawn()
    records = [
        Record(image_id=str(n), truth=own[0], references=own, prediction=said)
        for n, (said, own) in enumerate(zip(predictions, references, strict=True))
    ]
    metrics = CaptionTask().summarize(records)
    assert (metrics.best, metrics.higher_is_better, list(metrics.values)) == (
        *("cider", True),
        ["cider", "bleu_4", "rouge_l"],
    )
    mean = sum(record.scores["cider"] for record in records) / len(records)
    assert mean == pytest.approx(metrics.values["cider"])
    bounds = CaptionTask().intervals(records)
    assert set(bounds) == {"cider", "rouge_l"}
    assert all(low < metrics.values[name] < high for name, (low, high) in bounds.items())

"""The task `vqa`: answers alike and their accuracy, by hand and against the values of an outside package."""

import json
from pathlib import Path

import pytest

from minigpt4.tasks.records import Record
from minigpt4.tasks.vqa import VqaTask, vqa_accuracy, vqa_normalized
from tests.support import ROOT
from tests.support.questions import check_task


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red, CAR!", "red car"),
        ("two dogs", "2 dogs"),
        ("none", "0"),
        ("1,000", "1000"),
        ("1,000 t-shirts", "1000 tshirts"),
        ("t-shirt", "t shirt"),
        ("yes/no", "yes no"),
        ("dont", "don't"),
        ("couldnt've", "couldn't've"),
        ("U.S.A.", "usa"),
        ("3.5", "3.5"),
        ("\tan\n apple ", "apple"),
        ("the", ""),
    ],
)
def test_vqa_normalized_answers(answer: str, expected: str) -> None:
    assert vqa_normalized(answer) == expected


def test_vqa_normalized_as_an_outside_package_does() -> None:
    """Recorded values of lmms-eval's functions; tests/golden/README.md says how."""
    recorded = json.loads((ROOT / "tests/golden/vqa_normalized.json").read_text())
    assert len(recorded) > 2000
    assert {text: vqa_normalized(text) for text in recorded} == recorded


@pytest.mark.parametrize(
    ("answer", "references", "accuracy"),
    [
        ("cat", ["cat"] * 10, 1.0),
        ("Cat.", ["a cat"] * 4 + ["dog"] * 6, 1.0),
        ("cat", ["cat"] * 3 + ["dog"] * 7, (3 * 2 / 3 + 7 * 1) / 10),  # 0.9
        ("cat", ["cat"] * 2 + ["dog"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),  # 0.6
        ("cat", ["cat"] + ["dog"] * 9, 0.3),
        ("cow", ["cat"] * 10, 0.0),
        ("The cat", ["cat"], 1.0),
        ("cats", ["cat"], 0.0),
    ],
)
def test_vqa_accuracy_by_hand(answer: str, references: list[str], accuracy: float) -> None:
    assert vqa_accuracy(answer, references) == pytest.approx(accuracy, abs=1e-12)


def test_vqa_summary_has_groups_and_the_share_of_yes() -> None:
    def record(prediction: str, truth: str, accuracy: float, group: str) -> Record:
        scores = {"accuracy": accuracy}
        return Record(image_id="1", truth=truth, prediction=prediction, group=group, scores=scores)

    records = [record("Yes.", "yes", 1.0, "a"), record("yes", "no", 0.0, "b"), record("", "No", 0.0, "b")]
    metrics = VqaTask().summarize(records)
    assert metrics.values == {"accuracy": 1 / 3, "accuracy_a": 1.0, "accuracy_b": 0.0, "yes": 2 / 3}
    assert (metrics.best, metrics.higher_is_better) == ("accuracy", True)
    records.append(record("blue", "blue", 1.0, "a"))
    assert "yes" not in VqaTask().summarize(records).values


@pytest.mark.integration
def test_vqa_trains_validates_and_evaluates(tmp_path: Path, monkeypatch) -> None:
    check_task(tmp_path, "vqa", "accuracy", monkeypatch)

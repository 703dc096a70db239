"""The task `short_answer`: which answers are the same, and a run of it."""

from pathlib import Path

import pytest

from minigpt4.tasks.short_answer import normalized
from tests.support import ROOT
from tests.support.questions import check_task


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The Red, CAR!", "red car"),
        (" an  apple\n", "apple"),
        ("“Yes.”", "yes"),
        ("t-shirt", "tshirt"),
        ("3.5", "3.5"),
        ("about 3.5. ", "about 3.5"),
        ("A", "a"),
        ("?!", "?!"),
        ("हिन्दी।", "हिन्दी"),
        ("", ""),
    ],
)
def test_normalized_answers(answer: str, expected: str) -> None:
    assert normalized(answer) == expected
    assert normalized(expected) == expected


@pytest.mark.integration
def test_short_answer_trains_validates_and_evaluates(tmp_path: Path, monkeypatch) -> None:
    assert len((ROOT / "minigpt4/tasks/short_answer.py").read_text().splitlines()) <= 45
    check_task(tmp_path, "short_answer", "accuracy", monkeypatch)

"""Predictions as JSONL and as a table."""

import json

from minigpt4.runners.reporting.predictions import CHARACTERS, ROWS, write_predictions
from minigpt4.tasks.records import Record


def answered(name: str, right: bool, **more: str) -> Record:
    texts = {"truth": "a dög", "prompt": "What?", "prediction": "a cat", **more}
    return Record(image_id=name, scores={"exact_match": float(right)}, **texts)


def test_predictions_are_lines_of_what_was_shown_asked_said_and_true(tmp_path) -> None:
    records = [
        answered("dogs.jsonl:1", False, cluster="dogs/a.jpg"),
        Record(image_id="b", truth="x"),
        Record(image_id="000123", truth="x", prediction="y"),
    ]
    assert write_predictions(records, tmp_path / "predictions.jsonl")
    first, second = map(json.loads, (tmp_path / "predictions.jsonl").read_text("utf-8").splitlines())
    assert first == {
        "id": "dogs.jsonl:1",
        "picture": "dogs/a.jpg",
        "question": "What?",
        "reply": "a cat",
        "truth": "a dög",
        "exact_match": 0,
    }
    assert (second["picture"], second["question"]) == ("000123", None)


def test_predictions_are_not_written_where_nothing_was_asked(tmp_path) -> None:
    assert not write_predictions([Record(image_id="b", truth="x")], tmp_path / "none.jsonl")
    assert not list(tmp_path.iterdir())


def test_table_shows_wrong_answers_first_and_is_bounded(tmp_path) -> None:
    records = [answered(f"right{number}", True) for number in range(ROWS)]
    records += [answered(f"wrong{number}", False, prediction="c" * 1000) for number in range(3)]
    write_predictions(records, tmp_path / "predictions.jsonl")
    said, _, _, _, *rows = (tmp_path / "predictions.md").read_text("utf-8").splitlines()
    assert f"{ROWS:,} of {ROWS + 3:,}" in said
    assert [row.split(" | ")[:2] for row in rows[:4]] == [
        *(["| wrong", f"wrong{number}"] for number in range(3)),
        ["| right", "right0"],
    ]
    assert rows[0].split(" | ")[3] == "c" * CHARACTERS + "…"
    assert len(rows) == ROWS


def test_table_writes_no_mark_of_a_text_as_a_mark(tmp_path) -> None:
    write_predictions([answered("a", False, prediction="a|b\n<img src=x> `c`")], tmp_path / "p.jsonl")
    *_, row = (tmp_path / "p.md").read_text("utf-8").splitlines()
    assert row == r"| wrong | a | What? | a\|b &lt;img src=x> \`c\` | a dög |"

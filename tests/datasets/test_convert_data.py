"""Annotations in others' formats, converted to JSONL and read as they are."""

import csv
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from minigpt4.common.errors import ConfigError, DataError, UserError
from minigpt4.datasets.convert import convert
from minigpt4.datasets.datasets.jsonl_format import Ids, check_line, read_lines
from minigpt4.datasets.validate import validate
from minigpt4.prompts.templates import IMAGE_TURN
from tests.support.shards import encoded, picture


def converted(source: Path, **more: Any) -> list[dict[str, Any]]:
    """The lines of what a file becomes; each is one that the format takes."""
    out = source.parent / "out.jsonl"
    options = {"format": None, "answers": None, "pictures": None, "columns": []} | more
    convert(Namespace(source=source, out=out, **options))
    ids = Ids()
    for line in read_lines(out):
        assert not line.problems
        ids.add(line)
    assert not [*ids.repeated()]
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def as_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


LLAVA = {
    "id": "7",
    "image": "a.jpg",
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A dog."},
    ],
}


def test_llava_list_becomes_conversations(tmp_path) -> None:
    lines = converted(
        as_json(tmp_path / "llava.json", [LLAVA, LLAVA | {"id": "8", "image": "../b.jpg"}, LLAVA])
    )
    assert lines[0] == {
        "id": "7",
        "image": "a.jpg",
        "conversation": [{"user": "<image> What is this?"}, {"assistant": "A dog."}],
    }
    # A path that leaves the folder is left out, and so is an id that was there.
    assert lines[1:] == [{"image": "a.jpg", "conversation": lines[0]["conversation"]}]


def test_coco_captions_get_the_names_of_their_pictures(tmp_path) -> None:
    content = {
        "images": [{"id": 3, "file_name": "a.jpg"}],
        "annotations": [{"id": 9, "image_id": 3, "caption": "A dog."}],
    }
    assert converted(as_json(tmp_path / "coco.json", content)) == [
        {"image": "a.jpg", "caption": "A dog.", "id": "9"}
    ]


def test_vqa_pairs_get_the_answer_that_most_people_gave(tmp_path) -> None:
    questions = [{"question_id": n, "image_id": 42, "question": f"What {n}?"} for n in (1, 2)]
    answers = [
        {"question_id": 1, "multiple_choice_answer": "dog"},
        {"question_id": 2, "answers": [{"answer": "cat"}, {"answer": "dog"}, {"answer": "dog"}]},
    ]
    given = as_json(tmp_path / "answers.json", {"annotations": answers})
    source = as_json(tmp_path / "questions.json", {"questions": questions})
    lines = converted(source, answers=given, pictures="COCO_{:012}.jpg")
    assert [(line["image"], line["answer"]) for line in lines] == [("COCO_000000000042.jpg", "dog")] * 2
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(ConfigError, match="vqa needs --answers"):
        converted(source)


def test_table_is_read_by_the_names_of_its_columns(tmp_path) -> None:
    with (tmp_path / "birds.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["file", "title"], ["a.jpg", "A bird, small"], ["b.jpg", ""], ["c.jpg", "x"]]
        )
    lines = converted(tmp_path / "birds.csv", columns=["image=file", "caption=title"])
    assert lines == [
        {"image": "a.jpg", "caption": "A bird, small"},
        {"image": "c.jpg", "caption": "x"},
    ]


def test_table_of_a_spreadsheet_has_semicolons_and_its_columns_are_named(tmp_path) -> None:
    (tmp_path / "birds.csv").write_text("\ufefffile;title\na.jpg;A bird, small\n", encoding="utf-8")
    lines = converted(tmp_path / "birds.csv", columns=["image=file", "caption=title"])
    assert lines == [{"image": "a.jpg", "caption": "A bird, small"}]
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"no column 'image', it has file, title: .*--columns image="):
        converted(tmp_path / "birds.csv")
    with pytest.raises(ConfigError, match=r"no column 'titel', it has file, title: .*--columns caption="):
        converted(tmp_path / "birds.csv", columns=["image=file", "caption=titel"])
    with pytest.raises(ConfigError, match=r"no column 'caption', it has file, title"):
        converted(tmp_path / "birds.csv", columns=["image=file"])


def test_jsonl_needs_no_conversion(tmp_path) -> None:
    with pytest.raises(ConfigError, match="is read as it is"):
        converted(as_json(tmp_path / "a.jsonl", LLAVA))


def test_pictures_inside_parquet_become_files(tmp_path) -> None:
    data = encoded(picture(0))
    rows = [{"image": {"bytes": data, "path": None}, "question": "What?", "answer": "A dog."}] * 2
    (tmp_path / "data").mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data/train-0.parquet")
    lines = converted(tmp_path / "data")
    assert [line["image"] for line in lines] == ["out/00000000.jpg", "out/00000001.jpg"]
    assert (tmp_path / "out/00000001.jpg").read_bytes() == data
    validate(
        Namespace(file=str(tmp_path / "out.jsonl"), image_path=None, open_images=True, max_context_len=999)
    )


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.parquet"])
def test_pipe_is_not_waited_for(tmp_path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} .*not a regular file"):
        converted(tmp_path / name)


def test_rows_that_json_cannot_hold_are_left_out(tmp_path) -> None:
    rows = [{"image": "a.jpg", "caption": text} for text in (b"A dog.", b"A cat.")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="2 of 2 records"):
        converted(tmp_path / "rows.parquet")


def test_nothing_is_written_where_most_records_cannot_be_used(tmp_path) -> None:
    with pytest.raises(DataError, match="3 of 3 records"):
        converted(as_json(tmp_path / "a.json", [{"image": "a.jpg"}] * 3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_lines_of_llava_and_openai_are_read_as_they_are() -> None:
    chat = {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": "a.jpg"}},
                    {"type": "text", "text": "What is this?"},
                ],
            },
            {"role": "assistant", "content": "A dog."},
        ]
    }
    for record in (LLAVA, chat):
        entry, problems = check_line(json.dumps(record).encode())
        assert not problems
        assert (entry.images, entry.answers) == (["a.jpg"], ["A dog."])
        assert entry.questions == [f"{IMAGE_TURN}What is this?"]
    told = {"messages": [{"role": "system", "content": "You know pets."}, *chat["messages"]]}
    entry, _ = check_line(json.dumps(told).encode())
    assert entry.questions == [f"You know pets.\n{IMAGE_TURN}What is this?"]
    listed = {"images": ["a.jpg"], "messages": [{"role": "user", "content": "Hm?"}, chat["messages"][1]]}
    entry, _ = check_line(json.dumps(listed).encode())
    assert entry.questions == [f"{IMAGE_TURN}Hm?"]


@pytest.mark.parametrize(
    ("turn", "problem"),
    [
        ({"from": "robot", "value": "x"}, "turn 1 of 'conversation' is 'robot', it must be 'user'"),
        ({"role": 3, "x": 1}, "turn 1 of 'conversation' is {'role': 3, 'x': 1}"),
        ({"from": [], "value": "x"}, "turn 1 of 'conversation' is {'from': [], 'value': 'x'}"),
    ],
)
def test_turns_of_other_forms_are_named(turn, problem) -> None:
    key = "conversations" if "from" in turn else "messages"
    _, problems = check_line(json.dumps({"image": "a.jpg", key: [turn, turn]}).encode())
    assert problems[0].startswith(problem)

"""The JSONL format: what a line may say, and what is told of one that says something else."""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minigpt4.datasets.datasets import jsonl_format
from minigpt4.datasets.datasets.jsonl_format import check_line, read_lines
from minigpt4.datasets.validate import validate
from tests.support import ROOT
from tests.support.jsonl import CAPTION, QUESTION, TALK, write
from tests.support.shards import encoded, picture


def test_the_examples_of_the_page() -> None:
    page = (ROOT / "dataset" / "README_YOUR_DATA.md").read_text(encoding="utf-8")
    block = page.split("```json\n")[1].split("```")[0]
    lines = block.replace("\n  ", " ").strip().splitlines()
    entries = [check_line(line.encode()) for line in lines]
    assert [problems for _, problems in entries] == [[], [], []]
    assert [entry.kind for entry, _ in entries] == ["caption", "question", "conversation"]
    assert entries[2][0].questions == [f"{word} <Img><ImageHere></Img>?" for word in ("What is in", "And in")]
    assert all(f"`{key}`" in page for key in jsonl_format.KEYS)


BAD_LINES = [
    (b'{"image": "a.jpg", "caption": "x" "id": 4}', ["is not JSON: Expecting ',' delimiter at column 35"]),
    (b'{"image": "a.jpg", "caption": "x"\r\n', ["is not JSON: Expecting ',' delimiter at column 34"]),
    (b'{"image": "a.jpg", "caption": "\xe9"}', ["is not UTF-8: byte 0xe9 at column 32"]),
    (b"[" * 100_000, None),  # deeper than Python's parser goes
    (
        [CAPTION],
        [
            "is [{'image': 'a.jpg', 'caption': 'A dog.'}], it must be an object like "
            '{"image": …, "caption": …}'
        ],
    ),
    (
        {},
        [
            "'image' is missing: the path of a picture, or a list of them",
            "no text: give 'caption', or 'question' and 'answer', or 'conversation'",
        ],
    ),
    (
        {"img": "a.jpg", "caption": "x"},
        [
            "'img' is not a key of this format; did you mean 'image'? (known: image, video, subtitles, "
            "caption, question, answer, conversation, candidates, id, group)",
            "'image' is missing: the path of a picture, or a list of them (it has 'img', 'caption')",
        ],
    ),
    (
        CAPTION | {"text": "A dog."},
        [
            "'text' is not a key of this format: write \"caption\": "
            '"…" (known: image, video, subtitles, caption, question, answer, conversation, candidates, '
            "id, group)"
        ],
    ),
    (CAPTION | {"image": 3}, ["'image' is 3, it must be the path of a picture"]),
    (CAPTION | {"image": []}, ["'image' is an empty list, it must name at least one picture"]),
    (
        CAPTION | {"image": "https://x.org/a.jpg"},
        ["'image' is 'https://x.org/a.jpg': fetch the picture, and give its path"],
    ),
    (
        CAPTION | {"image": "data:image/png;base64,iVBORw0KGgo="},
        ["'image' is 'data:image/png;base64,iVBORw0KGgo=': write the picture to a file, and give its path"],
    ),
    (
        CAPTION | {"image": "x\\a.jpg"},
        ["'image' is 'x\\\\a.jpg': write / between folders, which works everywhere"],
    ),
    *[
        (
            CAPTION | {"image": name},
            [f"'image': {name!r} leaves the folder that it belongs to: give a path relative to it"],
        )
        for name in (
            "../a.jpg",
            "x/../../a.jpg",
            "/etc/a.jpg",
            "C:\\a.jpg",
            "C:a.jpg",
            "..\\a.jpg",
            "\\a.jpg",
        )
    ],
    (
        CAPTION | {"image": ["a.jpg", "b.jpg"]},
        ["a caption is of one picture, here are 2: ask a question about them"],
    ),
    (CAPTION | {"caption": ""}, ["'caption' is empty"]),
    (CAPTION | {"caption": None}, ["'caption' is None, it must be text"]),
    (
        CAPTION | {"caption": "x <ImageHere>"},
        ["'caption' holds <ImageHere>, the model's placeholder: write <image> instead"],
    ),
    (
        CAPTION | {"caption": "x <image>"},
        ["<image> is in a caption or an answer, only what the user says can hold one"],
    ),
    (
        b'{"image": "a.jpg", "caption": "x \\ud83d"}',
        ["'caption' holds half of a character (a lone surrogate): 'x \\ud83d'"],
    ),
    (
        CAPTION | {"question": "What?"},
        ["'caption' stands beside 'question': a line is a caption, a question or a conversation"],
    ),
    ({"image": "a.jpg", "question": "What?"}, ["'answer' is missing beside 'question'"]),
    ({"image": "a.jpg", "answer": "What?"}, ["'question' is missing beside 'answer'"]),
    (QUESTION | {"question": " ", "answer": 4}, ["'question' is empty", "'answer' is 4, it must be text"]),
    (
        QUESTION | {"question": "<image> and <image>?"},
        ["<image> occurs 2 times, but 'image' names 1: mark each once, or none"],
    ),
    ({"image": "a.jpg", "conversation": "What?"}, ["'conversation' is 'What?', it must be a list of turns"]),
    (
        {"image": "a.jpg", "conversation": TALK[1:3]},
        [
            "turn 1 of 'conversation' is 'assistant', it must be 'user': user first, then assistant, in turn",
            "turn 2 of 'conversation' is 'user', it must be 'assistant': user first, then assistant, in turn",
        ],
    ),
    (
        {"image": "a.jpg", "conversation": TALK[:3]},
        ["'conversation' ends with 'user', it must end with the 'assistant' who replies"],
    ),
    (
        {"image": "a.jpg", "conversation": [{"user": "a", "assistant": "b"}, {"assistant": ""}]},
        [
            "turn 1 of 'conversation' is {'user': 'a', 'assistant': 'b'}, it must be {\"user\": \"…\"}",
            "'assistant' in turn 2 is empty",
        ],
    ),
    (CAPTION | {"id": True}, ["'id' is True, it must be text or a whole number"]),
    (CAPTION | {"group": 4}, ["'group' is 4, it must be text"]),
    (CAPTION | {"candidates": "A dog."}, ["'candidates' is 'A dog.', it must be a list of texts"]),
    (CAPTION | {"candidates": ["A dog.", 4]}, ["one of 'candidates' is 4, it must be text"]),
    *(
        (
            CAPTION | {"candidates": ["A dog.", one]},
            ["'candidates' holds a text twice, but for spaces and case"],
        )
        for one in ("A dog.", "a DOG.", " A  dog.\n")
    ),
    (CAPTION | {"candidates": ["A cat."]}, ["'candidates' lacks the right one, 'A dog.'"]),
    (
        {"image": "a.jpg", "conversation": TALK, "candidates": ["A dog."]},
        ["'candidates' stands beside 'conversation', it belongs to a caption or a question"],
    ),
]


@pytest.mark.parametrize(("line", "problems"), BAD_LINES)
def test_what_is_told_of_a_bad_line(line: Any, problems: list[str] | None) -> None:
    entry, found = check_line(line if isinstance(line, bytes) else json.dumps(line).encode())
    assert entry is None
    if problems is None:
        assert len(found) == 1 and found[0].startswith("is not JSON: ")
    else:
        assert found == problems


def test_lines_offsets_and_line_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = json.dumps(CAPTION).encode()
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n\r\n" + good + b"\n\n \n")
    lines = list(read_lines(path))
    assert [(line.number, line.offset) for line in lines] == [(1, 3), (2, len(good) + 5), (3, len(good) + 7)]
    assert [line.problems for line in lines] == [[], ["is empty: please remove it"], []]
    monkeypatch.setattr(jsonl_format, "MAX_LINE", 2**20)
    path.write_bytes(b"x" * (3 * 2**20) + b"\n" + good)
    long, last = read_lines(path)
    assert long.problems == ["is longer than 1 MB: is it one sample?"]
    assert (last.number, last.offset, last.problems) == (2, 3 * 2**20 + 1, [])


def run_validate(path: Path, capsys: pytest.CaptureFixture, **options: Any) -> tuple[list[str], str | None]:
    """What is printed, and what the command ends with."""
    code = None
    try:
        defaults = {"image_path": None, "open_images": False, "max_context_len": 3800}
        validate(argparse.Namespace(file=str(path), **defaults | options))
    except SystemExit as end:
        code = end.code
    return capsys.readouterr().out.splitlines(), code


def test_the_command_tells_all_line_by_line(tmp_path: Path, capsys) -> None:
    talk = {"image": ["a.jpg", "b.jpg"], "conversation": TALK[:2] * 2, "id": "x"}
    path = write(
        tmp_path / "d.jsonl", CAPTION | {"id": "x"}, CAPTION | {"image": "c.jpg"}, b"{}", QUESTION, talk
    )
    (tmp_path / "b.jpg").write_bytes(encoded(picture())[:90])
    expected = [
        f"{path}:2: picture not found: 'c.jpg' (looked for {tmp_path / 'c.jpg'})",
        f"{path}:3: 'image' is missing: the path of a picture, or a list of them",
        f"{path}:3: no text: give 'caption', or 'question' and 'answer', or 'conversation'",
        f"{path}:5: its 'id' is that of line 1",
        "5 lines, 1 caption, 1 question, 0 conversations, 0 turns, 1 picture",
    ]
    assert run_validate(path, capsys) == (expected, "3 of 5 lines cannot be used")
    expected.insert(3, f"{path}:5: the picture 'b.jpg' cannot be opened: broken image")
    assert run_validate(path, capsys, open_images=True) == (expected, "3 of 5 lines cannot be used")
    (tmp_path / "sub").mkdir()
    good = write(tmp_path / "sub" / "good.jsonl", CAPTION)
    (tmp_path / "sub" / "a.jpg").unlink()
    printed, code = run_validate(good, capsys, image_path=str(tmp_path))
    assert code is None and printed[-1] == "all lines can be used"


def test_the_command_counts_files_once(tmp_path: Path, capsys) -> None:
    talk = {"image": ["a.jpg", "./b.jpg"], "conversation": TALK[:2] * 2}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, talk, CAPTION | {"image": "b.jpg"})
    (tmp_path / "b.jpg").write_bytes(encoded(picture()))
    printed, _ = run_validate(path, capsys)
    assert printed[0] == "4 lines, 2 captions, 1 question, 1 conversation, 2 turns, 2 pictures"


def test_the_command_warns_of_what_is_too_long(tmp_path: Path, capsys) -> None:
    def talk(*asked: str) -> dict[str, Any]:
        turns = [turn for text in asked for turn in ({"user": text}, {"assistant": "a dog"})]
        return {"image": "a.jpg", "conversation": turns}

    path = write(
        tmp_path / "d.jsonl",
        talk("<image> what?", *["word " * 80] * 4),
        talk("<image> what?", *["word " * 80] * 5),
        talk("<image> " + "word " * 300, "where?", "what?"),
        talk("<image> what?", "word " * 400),
        {"image": "a.jpg", "caption": "a" * 100_001},
        {"image": "a.jpg", "caption": "a" * 100_000},
    )
    printed, code = run_validate(path, capsys, max_context_len=400)
    before = "tokens before the last answer, more than max_context_len 400"
    assert printed[:-3] == [
        f"{path}:1: warning: about 443 {before}: turns are left out",
        f"{path}:2: warning: about 544 {before}: turns are left out",
        f"{path}:3: warning: about 414 {before}: training skips it",
        f"{path}:4: warning: about 540 {before}: training skips it",
        f"{path}:5: warning: a text of more than 100,000 characters, or 10,000 turns: training skips it",
    ]
    assert code is None and printed[-2:] == ["warnings: 5", "all lines can be used"]


@pytest.mark.integration
def test_the_command_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minigpt4.datasets.validate"]
    path = write(tmp_path / "d.jsonl", CAPTION)
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all lines can be used"), done.stderr
    done = subprocess.run([*command, tmp_path / "none.jsonl"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: file not found: {tmp_path / 'none.jsonl'}\n")

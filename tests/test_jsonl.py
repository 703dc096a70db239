"""The JSONL format: what a line may say, what is told of one that says something else, training on it."""

import argparse
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets import jsonl_format
from minigpt4.datasets.datasets.jsonl_dataset import JsonlDataset, LineIndex
from minigpt4.datasets.datasets.jsonl_format import check_line, read_lines
from minigpt4.datasets.validate import validate
from minigpt4.tasks import setup_task
from tests.shards import SIZE, encoded, picture, sorted_out

KEY = "datasets.jsonl.build_info.ann_path"
CAPTION = {"image": "a.jpg", "caption": "A dog."}
QUESTION = {"image": "a.jpg", "question": "What?", "answer": "A dog."}
TALK = [{"user": "What?"}, {"assistant": "Dog."}, {"user": "And on <image>?"}, {"assistant": "Cat."}]


def write(path: Path, *lines: Any) -> Path:
    """A file of lines (objects, or bytes as they are), and the pictures a.jpg and b.jpg beside it."""
    for number, name in enumerate("ab"):
        (path.parent / f"{name}.jpg").write_bytes(encoded(picture(number)))
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def build(info: Any, split: str = "train", processor: str | None = None) -> JsonlDataset:
    """As the YAML does it."""
    section = {
        "build_info": info,
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
        "text_processor": {"train": {"name": processor}} if processor else None,
    }
    return build_datasets({"jsonl": section}, seed=0)["jsonl"][1][split]


def without_image(sample: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sample.items() if key != "image"}


def test_what_samples_are(tmp_path: Path) -> None:
    marked = {"image": "b.jpg", "question": "On <image>, what?", "answer": "Cats.", "id": 7, "group": "vqa"}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, marked)
    dataset = build({"ann_path": {"test": str(path)}}, "test")
    caption, question, last = dataset
    assert without_image(caption) == {
        "answer": "A dog.",
        "conv_q": [None],
        "conv_a": ["A dog."],
        "image_id": f"{path}:1",
        "group": "",
    }
    assert without_image(question) == {
        "answer": "A dog.",
        "conv_q": ["<Img><ImageHere></Img> What?"],
        "conv_a": ["A dog."],
        "image_id": f"{path}:2",
        "group": "",
    }
    assert without_image(last) == {
        "answer": "Cats.",
        "conv_q": ["On <Img><ImageHere></Img>, what?"],
        "conv_a": ["Cats."],
        "image_id": "7",
        "group": "vqa",
    }
    assert caption["image"].shape == (3, SIZE, SIZE) and caption["image"].dtype == torch.uint8
    assert torch.equal(caption["image"], question["image"])
    assert not torch.equal(caption["image"], last["image"])


def test_several_pictures_are_padded_to_the_most(tmp_path: Path) -> None:
    talk = {"image": ["a.jpg", "b.jpg"], "conversation": TALK[:2]}
    path = write(tmp_path / "d.jsonl", talk, CAPTION)
    first, second = build({"ann_path": {"val": str(path)}}, "val")
    assert first["conv_q"] == ["<Img><ImageHere></Img> <Img><ImageHere></Img> What?"]
    assert (first["length"], second["length"]) == (2, 1)
    assert first["image"].shape == second["image"].shape == (2, 3, SIZE, SIZE)
    assert torch.equal(first["image"][0], second["image"][0]) and not second["image"][1].any()
    (batch,) = BatchStream(build({"ann_path": {"val": str(path)}}, "val"), 2)
    assert batch["image"].shape == (2, 2, 3, SIZE, SIZE) and batch["length"] == [2, 1]
    assert batch["conv_q"][1] == [None]


def test_marks_in_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"image": "b.jpg", "conversation": TALK})
    (sample,) = build({"ann_path": {"val": str(path)}}, "val")
    assert sample["conv_q"] == ["What?", "And on <Img><ImageHere></Img>?"]
    assert (sample["conv_a"], sample["answer"]) == (["Dog.", "Cat."], "Cat.")


def test_the_text_processor_is_for_captions(tmp_path: Path) -> None:
    only_signs = {"image": "a.jpg", "caption": "..."}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, only_signs)
    samples, bad = sorted_out(build({"ann_path": {"val": str(path)}}, "val", "blip_caption"))
    assert [s["answer"] for s in samples] == ["a dog", "A dog."]
    assert samples[0]["conv_a"] == ["a dog"] and bad == {"empty caption": 1}


def test_the_examples_of_the_page() -> None:
    page = (Path(__file__).parent.parent / "dataset" / "README_YOUR_DATA.md").read_text(encoding="utf-8")
    block = page.split("```json\n")[1].split("```")[0]
    lines = block.replace("\n  ", " ").strip().splitlines()
    entries = [check_line(line.encode()) for line in lines]
    assert [problems for _, problems in entries] == [[], [], []]
    assert [entry.kind for entry, _ in entries] == ["caption", "question", "conversation"]
    assert entries[2][0].questions == [f"{word} <Img><ImageHere></Img>?" for word in ("What is in", "And in")]
    assert all(f"`{key}`" in page for key in jsonl_format.KEYS)


BAD_LINES = [
    (b'{"image": "a.jpg", "caption": "x" "id": 4}', ["is not JSON: Expecting ',' delimiter at column 35"]),
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
            "there is no text: give 'caption', or 'question' and 'answer', or 'conversation'",
        ],
    ),
    (
        {"img": "a.jpg", "caption": "x"},
        [
            "'img' is no key of this format; did you mean 'image'? (known: image, caption, question, answer, "
            "conversation, id, group)",
            "'image' is missing: the path of a picture, or a list of them (it has 'img', 'caption')",
        ],
    ),
    (CAPTION | {"image": 3}, ["'image' is 3, it must be the path of a picture"]),
    (CAPTION | {"image": []}, ["'image' is an empty list, it must name at least one picture"]),
    (
        CAPTION | {"image": "https://x.org/a.jpg"},
        ["'image' is 'https://x.org/a.jpg': fetch the picture, and give its path"],
    ),
    (
        CAPTION | {"image": "x\\a.jpg"},
        ["'image' is 'x\\\\a.jpg': write / between folders, which works everywhere"],
    ),
    *[
        (
            CAPTION | {"image": name},
            [f"'image': {name!r} leaves the folder of the pictures: give a path relative to it"],
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
    (CAPTION | {"caption": None}, ["'caption' is None, it must be a text"]),
    (
        CAPTION | {"caption": "x <ImageHere>"},
        ["'caption' holds <ImageHere>, the model's own sign: write <image> instead"],
    ),
    (
        CAPTION | {"caption": "x <image>"},
        ["<image> stands in a caption or an answer, only what the user says can hold one"],
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
    (QUESTION | {"question": " ", "answer": 4}, ["'question' is empty", "'answer' is 4, it must be a text"]),
    (
        QUESTION | {"question": "<image> and <image>?"},
        ["<image> stands 2 times, but 'image' names 1: mark each once, or none"],
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
    (CAPTION | {"id": True}, ["'id' is True, it must be a text or a whole number"]),
    (CAPTION | {"group": 4}, ["'group' is 4, it must be a text"]),
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
    assert [line.problems for line in lines] == [[], ["is empty: leave it out"], []]
    monkeypatch.setattr(jsonl_format, "MAX_LINE", 2**20)
    path.write_bytes(b"x" * (3 * 2**20) + b"\n" + good)
    long, last = read_lines(path)
    assert long.problems == ["is longer than 1 MB: is it one sample?"]
    assert (last.number, last.offset, last.problems) == (2, 3 * 2**20 + 1, [])


def run_validate(path: Path, capsys: pytest.CaptureFixture, **options: Any) -> tuple[list[str], str | None]:
    """What is printed, and what the command ends with."""
    code = None
    try:
        validate(
            argparse.Namespace(**{"file": str(path), "image_path": None, "open_images": False} | options)
        )
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
        f"{path}:2: there is no picture 'c.jpg' (looked for {tmp_path / 'c.jpg'})",
        f"{path}:3: 'image' is missing: the path of a picture, or a list of them",
        f"{path}:3: there is no text: give 'caption', or 'question' and 'answer', or 'conversation'",
        f"{path}:5: its 'id' is that of line 1",
        "5 lines, 2 captions, 1 question, 1 conversation, 2 turns, 5 pictures",
    ]
    assert run_validate(path, capsys) == (expected, "3 of 5 lines cannot be used")
    expected.insert(3, f"{path}:5: the picture 'b.jpg' cannot be opened: broken image")
    assert run_validate(path, capsys, open_images=True) == (expected, "3 of 5 lines cannot be used")
    (tmp_path / "sub").mkdir()
    good = write(tmp_path / "sub" / "good.jsonl", CAPTION)
    (tmp_path / "sub" / "a.jpg").unlink()
    printed, code = run_validate(good, capsys, image_path=str(tmp_path))
    assert code is None and printed[-1] == "all lines can be used"


def test_the_command_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "minigpt4.datasets.validate"]
    path = write(tmp_path / "d.jsonl", CAPTION)
    done = subprocess.run([*command, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all lines can be used"), done.stderr
    done = subprocess.run([*command, tmp_path / "none.jsonl"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"error: there is no file {tmp_path / 'none.jsonl'}\n")


def test_a_file_with_bad_lines_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", CAPTION, *[CAPTION | {"caption": ""}] * 7)
    with pytest.raises(DataError) as caught:
        build({"ann_path": str(path)})
    first, *shown = str(caught.value).split("\n  ")
    assert first == (
        f"{KEY}: 7 lines of {path} cannot be used (`python -m minigpt4.datasets.validate {path}` tells all):"
    )
    assert shown == [f"{path}:{number}: 'caption' is empty" for number in range(2, 7)]
    path = write(tmp_path / "d.jsonl", *[CAPTION | {"id": 4}] * 2)
    with pytest.raises(DataError, match=r"(?s)1 line of .*d\.jsonl:2: its 'id' is that of line 1$"):
        build({"ann_path": str(path)})
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match=rf"^{KEY}: there is not one entry in {path}$"):
        build({"ann_path": str(path)})
    with pytest.raises(DataError, match=rf"^{KEY}: there is no file .*none\.jsonl$"):
        build({"ann_path": str(tmp_path / "none.jsonl")})
    with pytest.raises(ConfigError, match=rf"^{KEY} is '/path/to/data\.jsonl': please set it"):
        build({"ann_path": "/path/to/data.jsonl"})


def test_several_files_and_a_folder_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    files = [write(tmp_path / "d.jsonl", CAPTION, QUESTION), write(tmp_path / "more" / "e.jsonl", QUESTION)]
    (tmp_path / "more" / "a.jpg").unlink()
    names = [str(path) for path in files]
    with pytest.raises(DataError, match=rf"^{KEY}: the files are in 2 folders: please set `image_path`"):
        build({"ann_path": {"val": names}}, "val")
    samples = list(build({"ann_path": {"val": names}, "image_path": str(tmp_path)}, "val"))
    assert [s["image_id"] for s in samples] == [f"{names[0]}:1", f"{names[0]}:2", f"{names[1]}:1"]


def test_what_goes_missing_later_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION | {"image": "b.jpg"}, CAPTION)
    dataset = build({"ann_path": {"val": str(path)}}, "val")
    (tmp_path / "b.jpg").unlink()
    content = path.read_bytes()
    path.write_bytes(content[:-10] + b"\n")
    samples, bad = sorted_out(dataset)
    assert len(samples) == 1 and bad == {"missing image": 1, "line changed since the start": 1}
    assert dataset[1].where == f"{path}:2"


def test_eight_bytes_a_line_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *[CAPTION] * 3000, QUESTION | {"id": "last"})
    index = LineIndex([path, path])
    assert len(pickle.dumps(index)) < 2 * 3001 * 8 + 1000
    place = pickle.loads(pickle.dumps(index))[6001]
    assert (len(index), place.number, index[3001].number, index[3000].number) == (6002, 3001, 1, 3001)
    with open(path, "rb") as stream:
        stream.seek(place.offset)
        entry, _ = check_line(stream.readline())
    assert entry.id == "last"


COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 200, 0), "yellow": (250, 250, 0)}


def write_colours(folder: Path) -> Path:
    """Pictures of one colour each: captions, questions, and conversations about two of them."""
    lines: list[dict[str, Any]] = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
        lines.append({"image": f"{name}.png", "caption": f"a {name} square", "group": "captions"})
        lines.append({"image": f"{name}.png", "question": "a square", "answer": name, "group": "questions"})
        other = "red" if name != "red" else "blue"
        talk = [{"user": "<image> a"}, {"assistant": name}, {"user": "<image> a"}, {"assistant": other}]
        images = [f"{name}.png", f"{other}.png"]
        lines.append({"image": images, "conversation": talk, "group": "conversations"})
    path = folder / "colours.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_training_on_all_three_kinds(tmp_path: Path, family: str) -> None:
    path = str(write_colours(tmp_path))
    settings = {
        "task": "image_text_pretrain",
        "max_epoch": 1,
        "iters_per_epoch": 40,
        "init_lr": 0.003,
        "log_freq": 10,
        "num_workers": 0,
        "device": "cpu",
        "amp": False,
        "test_splits": ["test"],
        "output_dir": str(tmp_path / "out"),
    }
    content = {
        "model": {"arch": "minigpt4", "model_type": f"tiny_{family}"},
        "datasets": {
            "jsonl": {
                "batch_size": 6,
                "build_info": {"ann_path": {"train": path, "test": path}},
                "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
            }
        },
        "run": settings,
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    cfg = Config(argparse.Namespace(cfg_path=tmp_path / "c.yaml"))
    task = setup_task(cfg)
    runner = registry.get_runner_class("runner_base")(
        cfg=cfg, task=task, model=task.build_model(cfg, device="cpu"), datasets=task.build_datasets(cfg)
    )
    report = runner.train()
    losses = [record["loss"] for record in runner.log.read()]
    assert losses[-1] < 0.5 * losses[0]
    assert report["loss"] < 0.5 * report["before"]["loss"]
    assert report["samples"] == 12 and report["bad_samples"] == {}
    assert {"exact_match_captions", "exact_match_questions", "exact_match_conversations"} <= report.keys()

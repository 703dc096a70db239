"""The builder `jsonl`: samples, refusals, memory, and training on all three kinds of lines."""

import argparse
import json
import pickle
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
from minigpt4.datasets.datasets.jsonl_dataset import JsonlDataset
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.tasks import setup_task
from tests.support.jsonl import CAPTION, QUESTION, TALK, write
from tests.support.shards import SIZE, sorted_out

KEY = "datasets.jsonl.build_info.ann_path"


def build(info: Any, split: str = "train", processor: str | None = None) -> JsonlDataset:
    """As the YAML does it."""
    section = {
        "build_info": info,
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
        "text_processor": {"train": {"name": processor}} if processor else None,
    }
    return build_datasets({"jsonl": section})["jsonl"][1][split]


def test_what_samples_are(tmp_path: Path) -> None:
    marked = {"image": "b.jpg", "question": "On <image>, what?", "answer": "Cats.", "id": 7, "group": "vqa"}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, marked)
    dataset = build({"ann_path": {"test": str(path)}}, "test")
    caption, question, last = dataset
    for sample, dialogue, image_id, group in [
        (caption, Dialogue.caption("A dog."), f"{path}:1", ""),
        (question, Dialogue.of([("<Img><ImageHere></Img> What?", "A dog.")]), f"{path}:2", ""),
        (last, Dialogue.of([("On <Img><ImageHere></Img>, what?", "Cats.")]), "7", "vqa"),
    ]:
        assert (sample.dialogue, sample.image_id, sample.group) == (dialogue, image_id, group)
    assert caption.image.shape == (1, 3, SIZE, SIZE) and caption.image.dtype == torch.uint8
    assert torch.equal(caption.image, question.image)
    assert not torch.equal(caption.image, last.image)


def test_samples_have_as_many_pictures_as_their_lines_name(tmp_path: Path) -> None:
    talk = {"image": ["a.jpg", "b.jpg"], "conversation": TALK[:2]}
    path = write(tmp_path / "d.jsonl", talk, CAPTION)
    first, second = build({"ann_path": {"val": str(path)}}, "val")
    assert first.dialogue.turns[0].text == "<Img><ImageHere></Img> <Img><ImageHere></Img> What?"
    assert first.image.shape == (2, 3, SIZE, SIZE) and torch.equal(first.image[:1], second.image)
    assert (first.size, second.size) == (None, (SIZE, SIZE))  # boxes are of one picture
    (batch,) = BatchStream(build({"ann_path": {"val": str(path)}}, "val"), 2)
    assert batch.images.shape == (3, 3, SIZE, SIZE) and batch.image_counts == [2, 1]
    assert torch.equal(batch.images_of(1), second.image)


def test_marks_in_a_conversation(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"image": "b.jpg", "conversation": TALK})
    (sample,) = build({"ann_path": {"val": str(path)}}, "val")
    turns = [turn.text for turn in sample.dialogue.turns]
    assert turns == ["What?", "Dog.", "And on <Img><ImageHere></Img>?", "Cat."]


def test_candidates(tmp_path: Path) -> None:
    lines = [row | {"candidates": ["A cat.", "A dog."]} for row in (CAPTION, QUESTION)]
    path = write(tmp_path / "d.jsonl", *lines, CAPTION)
    samples = build({"ann_path": {"val": str(path)}}, "val", "blip_caption")
    assert [s.candidates for s in samples] == [("a cat", "a dog"), ("A cat.", "A dog."), ()]
    assert all(s.dialogue.answer in s.candidates for s in list(samples)[:2])


def test_the_text_processor_is_for_captions(tmp_path: Path) -> None:
    only_signs = {"image": "a.jpg", "caption": "..."}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, only_signs)
    samples, bad = sorted_out(build({"ann_path": {"val": str(path)}}, "val", "blip_caption"))
    assert [s.dialogue.answer for s in samples] == ["a dog", "A dog."]
    assert bad == {"empty caption": 1}


def test_instructions_are_put_around_questions_and_before_captions(tmp_path: Path) -> None:
    """Behind the images that a question begins with; conversations stay as they are."""
    two = {"image": ["a.jpg", "b.jpg"], "question": "Same?", "answer": "No."}
    marked = {"image": "b.jpg", "question": "On <image>, what?", "answer": "Cats."}
    talk = {"image": "a.jpg", "conversation": TALK[:2]}
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION, two, marked, talk)
    (tmp_path / "mine.txt").write_text("[vqa] {} Be short.\n[caption] Describe it.\n")
    dataset = build({"ann_path": str(path), "instructions": str(tmp_path / "mine.txt")})
    image = "<Img><ImageHere></Img> "
    assert [sample.dialogue.turns[0].text for sample in dataset] == [
        f"{image}[caption] Describe it.",
        f"{image}[vqa] What? Be short.",
        f"{image}{image}[vqa] Same? Be short.",
        f"[vqa] On {image.strip()}, what? Be short.",
        f"{image}What?",
    ]
    assert dataset[0].dialogue.answer == "A dog."
    (tmp_path / "mine.txt").write_text("Answer: {}\n")
    assert build({"ann_path": str(path), "instructions": str(tmp_path / "mine.txt")})[0].dialogue.is_caption


def test_a_file_with_bad_lines_is_refused_at_the_start(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", CAPTION, *[CAPTION | {"caption": ""}] * 7)
    with pytest.raises(DataError) as caught:
        build({"ann_path": str(path)})
    first, *shown = str(caught.value).split("\n  ")
    assert first == (f"{KEY}: 7 lines of {path} cannot be used (`minigpt4 validate {path}` lists all):")
    assert shown == [f"{path}:{number}: 'caption' is empty" for number in range(2, 7)]
    path = write(tmp_path / "d.jsonl", *[CAPTION | {"id": 4}] * 2)
    with pytest.raises(DataError, match=r"(?s)1 line of .*d\.jsonl:2: its 'id' is that of line 1$"):
        build({"ann_path": str(path)})
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match=rf"^{KEY}: no entries in {path}$"):
        build({"ann_path": str(path)})
    with pytest.raises(DataError, match=rf"^{KEY}: the annotation file .*none\.jsonl does not exist"):
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
    assert [s.image_id for s in samples] == [f"{names[0]}:1", f"{names[0]}:2", f"{names[1]}:1"]


def test_what_goes_missing_later_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", CAPTION, QUESTION | {"image": "b.jpg"}, CAPTION)
    dataset = build({"ann_path": {"val": str(path)}}, "val")
    (tmp_path / "b.jpg").unlink()
    path.unlink()  # its lines are as they were at the start
    samples, bad = sorted_out(dataset)
    assert len(samples) == 2 and bad == {"missing image": 1}
    assert dataset[1].where == f"{path}:2"


def test_bytes_of_json_are_kept_for_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", *[CAPTION] * 3000, QUESTION | {"id": "last"})
    dataset = build({"ann_path": {"val": [str(path), str(path)]}}, "val")
    assert len(pickle.dumps(dataset.annotation)) < 2 * 3001 * 200
    assert (len(dataset), dataset.where(3000), dataset.where(3001)) == (6002, f"{path}:3001", f"{path}:1")
    assert dataset[6001].image_id == "last"


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


@pytest.mark.integration
@pytest.mark.parametrize("family", ["gemma", pytest.param("llama", marks=pytest.mark.slow)])
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
    losses = [record["loss"] for record in runner.reporter.log.read()]
    assert losses[-1] < 0.5 * losses[0]
    assert report["loss"] < 0.5 * report["before"]["loss"]
    assert report["samples"] == 12 and report["bad_samples"] == {}
    assert {"exact_match_captions", "exact_match_questions", "exact_match_conversations"} <= report.keys()

"""Tiny copies of MiniGPT-v2's data sets: each of its 25 builders reads them wholly."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pytest

from dataset.shapes import language, make_v2, world
from dataset.shapes.v2 import pictures
from minigpt4.commands import train
from minigpt4.common.config import Config
from minigpt4.datasets.builders.base_dataset_builder import Datasets, build_datasets
from minigpt4.datasets.stream import Reading
from minigpt4.processors.boxes import parse_boxes, parse_phrases, without_boxes
from minigpt4.prompts.sample import Sample
from tests.support import ROOT

CONFIG = ROOT / "train_configs/minigptv2_tiny_finetune.yaml"
TRAIN, TEST = 12, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("v2") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_v2", "--out", str(out), "--train", str(TRAIN), "--test", str(TEST)])
        make_v2.main()
    return out


@pytest.fixture(scope="module")
def datasets(folder: Path) -> Datasets:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT4_DATA", str(folder))
        return build_datasets(Config(argparse.Namespace(cfg_path=CONFIG, options=None)).datasets_cfg)


def _all(datasets: Datasets, name: str, split: str = "train") -> list[Sample]:
    return [sample for sample, _ in datasets[name][1][split].read(Reading(training=False))]


def test_every_set_is_read_without_a_skipped_sample(datasets: Datasets) -> None:
    assert len(datasets) == 25
    for name, (_, splits) in datasets.items():
        for split in splits:
            samples = _all(datasets, name, split)
            assert len(samples) >= TRAIN // 3 if split == "train" else TEST, (name, split)
            assert all(isinstance(sample, Sample) for sample in samples), (name, split)


def test_boxes_lie_around_what_was_drawn() -> None:
    for picture in pictures.draw({"train": 20}, "boxes"):
        for index, (left, top, right, bottom) in enumerate(picture.boxes):
            assert 0 <= left < right <= pictures.SIDE
            assert 0 <= top < bottom <= pictures.SIDE
            (box,) = parse_boxes(picture.box(index))
            assert box == tuple(int(value / pictures.SIDE * 100) for value in picture.boxes[index])
        phrases = parse_phrases(picture.grounded())
        assert [phrase.text for phrase in phrases] == [str(thing) for thing in picture.scene.things]
        assert without_boxes(picture.grounded()) == picture.caption


def test_train_and_test_share_no_scene(datasets: Datasets) -> None:
    for name, splits in (("coco_caption", ("train", "test")), ("flickr_grounded_caption", ("train", "test"))):
        for split in splits:
            for sample in _all(datasets, name, split):
                caption = without_boxes(sample.dialogue.answer or "")
                assert world.split_of(world.parse_caption(caption)) == split


def test_refcoco_asks_for_a_thing_and_the_other_way_round(datasets: Datasets) -> None:
    asked = _all(datasets, "refcocop")
    inverted = _all(datasets, "invrefcocop")
    assert len(asked) == len(inverted) >= TRAIN
    for one, other in zip(asked, inverted, strict=True):
        assert one.image_id == other.image_id
        assert len(parse_boxes(one.dialogue.answer or "")) == 1
        assert (one.dialogue.answer or "") in other.dialogue.turns[0].text
        assert (other.dialogue.answer or "") in one.dialogue.turns[0].text


def test_ask_detail_never_asks_for_a_description() -> None:
    import random

    rng = random.Random(0)
    scene = world.parse_caption("a small red circle above a big green square")
    questions = {language.ask_detail(scene, rng).question.lower().rstrip("?.") for _ in range(200)}
    assert questions.isdisjoint(language.DESCRIBE)
    assert len(questions) > 20


@pytest.mark.integration
def test_all_sets_are_trained_on_and_evaluated_as_their_tasks_say(folder, tmp_path, monkeypatch) -> None:
    """The command of `make v2`, at two steps."""
    options = [f"run.output_dir={tmp_path}/job", "run.max_epoch=1", "run.iters_per_epoch=2"]
    monkeypatch.setenv("MINIGPT4_DATA", str(folder))
    monkeypatch.setattr("sys.argv", ["train.py", "--cfg-path", str(CONFIG), "--options", *options])
    train.main()
    report = json.loads((tmp_path / "job/report.json").read_text())
    assert report["trainable_parameters"] == 217_216
    for name in ("coco_vqa", "gqa", "refcocop", "invrefcocop"):
        assert f"{name}_test_accuracy" in report
    assert "flickr_grounded_caption_test_boxes" in report
    assert "coco_caption_test_exact_match" in report

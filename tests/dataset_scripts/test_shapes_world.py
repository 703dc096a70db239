"""The drawn world: its splits, its captions, its pictures, and the shards made of them."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.shapes import language, make_examples, make_shards, world
from tests.support import ROOT


def _scenes() -> list[world.Scene]:
    return list(world.all_scenes())


def _pairs(scene: world.Scene) -> set[tuple[str, str]]:
    return {(thing.colour, thing.shape) for thing in scene.things}


def test_there_are_60_single_and_7080_double_scenes_and_each_is_in_one_split() -> None:
    scenes = _scenes()
    assert len(set(scenes)) == len(scenes) == 60 + 7080
    found = [scene for split in world.SPLITS for group in world.scenes_of(split) for scene in group]
    assert Counter(found) == Counter(scenes)


def test_sizes_of_the_splits() -> None:
    sizes = {split: tuple(map(len, world.scenes_of(split))) for split in world.SPLITS}
    assert sizes == {"train": (50, 4113), "val": (4, 1495), "test": (6, 1472)}


def test_held_out_pairs_are_never_in_train() -> None:
    singles, doubles = world.scenes_of("train")
    shown = set().union(*map(_pairs, (*singles, *doubles)))
    assert shown.isdisjoint(world.HELD_OUT)
    assert len(shown) == 30 - 5
    assert {shape for _, shape in world.HELD_OUT} == set(world.SHAPES)


def test_every_single_scene_of_val_and_test_is_a_held_out_pair() -> None:
    for split in ("val", "test"):
        assert all(_pairs(scene) <= set(world.HELD_OUT) for scene in world.scenes_of(split)[0])


def test_captions_read_back_and_no_two_scenes_share_one() -> None:
    scenes = _scenes()
    captions = {world.caption(scene) for scene in scenes}
    assert len(captions) == len(scenes)
    assert all(world.parse_caption(world.caption(scene)) == scene for scene in scenes)


def test_a_caption_and_its_attributes_literally() -> None:
    scene = world.parse_caption("a small blue star above a big green square")
    expected = ("two", "small", "blue", "star", "above", "big", "green", "square")
    assert world.attributes(scene) == expected
    single = world.Scene((world.Thing("big", "red", "circle"),))
    assert world.caption(single) == "a big red circle"
    assert world.attributes(single) == ("one", "big", "red", "circle", *["none"] * 4)


@pytest.mark.parametrize("text", ["", "a red circle", "a big red heart", "a big red circle above"])
def test_what_is_no_caption_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Not a thing of this world"):
        world.parse_caption(text)


@pytest.mark.parametrize("split", world.SPLITS)
def test_pictures_show_their_scenes(split: str) -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = world.sample_scene(split, 0.3, rng)
        layout = world.lay_out(scene, rng)
        image = Image.open(io.BytesIO(world.jpeg(world.draw(scene, layout))))
        assert image.size == (56, 56)
        pixels = np.asarray(image).astype(int)
        for thing, spot in zip(scene.things, layout.placements, strict=True):
            centre = pixels[int(spot.y), int(spot.x)]
            distances = {name: np.abs(centre - rgb).sum() for name, rgb in world.COLOURS.items()}
            assert min(distances, key=lambda name: distances[name]) == thing.colour
            assert spot.radius + 1 < min(spot.x, spot.y, 56 - spot.x, 56 - spot.y)


def test_the_thing_named_first_is_clearly_left_of_or_above_the_second() -> None:
    rng = random.Random(0)
    for _ in range(500):
        scene = world.sample_scene("train", 0.0, rng)
        first, second = world.lay_out(scene, rng).placements
        along, across = second.x - first.x, second.y - first.y
        if scene.relation == "above":
            along, across = across, along
        assert along > first.radius + second.radius + 1
        assert abs(across) <= along / 2 + 1e-9


def _files(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_shards_have_img2datasets_layout_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    for run in ("first", "second"):
        make_shards.write_split(tmp_path / run / "val", "val", 25, seed=3, samples_per_shard=10)
    files = _files(tmp_path / "first")
    assert files == _files(tmp_path / "second")
    assert sorted(files) == ["val/00000.tar", "val/00001.tar", "val/00002.tar"]
    with tarfile.open(tmp_path / "first/val/00001.tar") as tar:
        names = tar.getnames()
        content = {name: tar.extractfile(name).read() for name in names[:3]}
    extensions = ("jpg", "txt", "json")
    assert names == [f"{key:09d}.{end}" for key in range(10, 20) for end in extensions]
    about = json.loads(content["000000010.json"])
    assert about["key"] == "000000010"
    assert (about["status"], about["width"], about["height"]) == ("success", 56, 56)
    assert about["caption"] == content["000000010.txt"].decode()
    scene = world.parse_caption(about["caption"])
    assert world.split_of(scene) == "val"
    assert about["scene"]["count"] == len(scene.things)
    assert Image.open(io.BytesIO(content["000000010.jpg"])).size == (56, 56)


def test_another_seed_gives_other_pictures_and_fewer_shards_leave_none_behind(
    tmp_path: Path,
) -> None:
    make_shards.write_split(tmp_path, "val", 25, seed=3, samples_per_shard=10)
    before = _files(tmp_path)
    make_shards.write_split(tmp_path, "val", 10, seed=4, samples_per_shard=10)
    after = _files(tmp_path)
    assert list(after) == ["00000.tar"]
    assert after["00000.tar"] != before["00000.tar"]


def test_the_language_models_are_never_told_a_held_out_pair() -> None:
    rng = random.Random(0)
    held_out = [f"{colour} {shape}" for colour, shape in world.HELD_OUT]
    for _ in range(3000):
        scene = language.random_scene(rng)
        turn = language.ask(scene, rng)
        two = language.ask_among([scene, language.random_scene(rng)], rng.randrange(3), rng)
        text = f"{world.caption(scene)} {turn.question} {turn.answer} {two.question} {two.answer}".lower()
        assert not any(pair in text for pair in held_out)


def test_answers_literally() -> None:
    rng = random.Random(0)
    scene = world.parse_caption("a small blue star above a big green square")
    seen = {}
    for _ in range(5000):
        turn = language.ask(scene, rng)
        seen[turn.question.lower().rstrip("?.")] = turn.answer
    assert seen["how many shapes are there"] == "two"
    assert seen["what colour is the big square"] == "green"
    assert seen["what shape is blue"] == "star"
    assert seen["what is below the star"] == "a big green square"
    assert seen["what is above the green square"] == "a small blue star"
    assert seen["what is below the square"] == "nothing"
    assert seen["where is the star"] == "above a big green square"
    assert seen["is there a square"] == "yes"
    assert seen["is there a circle"] == "no"
    assert seen["describe this image"] == "a small blue star above a big green square"


def test_answers_about_two_pictures_literally() -> None:
    rng = random.Random(0)
    captions = ("a big red circle", "a small blue star above a big green square")
    scenes = [world.parse_caption(caption) for caption in captions]
    together, apart = {}, {}
    for _ in range(5000):
        for seen, fresh in ((together, 2), (apart, 1)):
            turn = language.ask_among(scenes, fresh, rng)
            seen[turn.question.lower().rstrip("?.")] = turn.answer
    for seen in (together, apart):
        assert seen["what is in the first picture"] == captions[0]
        assert seen["describe the last image"] == seen["describe the second image"] == captions[1]
        assert seen["what is in the third picture"] == "there is no third picture"
        assert seen["how many pictures do you see"] == "two"
        assert seen["what colour is the circle in the first picture"] == "red"
        assert seen["how many shapes are there in the second image"] == "two"
        assert any(question.startswith("in the first picture, ") for question in seen)
    assert together["describe this image"] == f"{captions[0]} and {captions[1]}"
    assert apart["describe this image"] == captions[1]


def test_example_pictures_are_as_they_were_drawn(tmp_path: Path, monkeypatch) -> None:
    """Those that come with the project, pixel for pixel, and their lists."""
    monkeypatch.setattr("sys.argv", ["make_examples", "--out", str(tmp_path)])
    make_examples.main()
    shipped = ROOT / "minigpt4" / "assets" / "tiny" / "examples"
    for name in ("examples.json", "examples_v2.json"):
        assert (tmp_path / name).read_text() == (shipped / name).read_text()
    for drawn in tmp_path.glob("*.png"):
        with Image.open(drawn) as here, Image.open(shipped / drawn.name) as there:
            assert here.size == (224, 224)
            difference = np.asarray(here, int) - np.asarray(there, int)
        assert np.abs(difference).mean() < 0.5  # another Pillow may draw an edge otherwise

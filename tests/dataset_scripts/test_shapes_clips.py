"""Clips of the drawn world: what moves, what is asked, what is held out, and the files."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.shapes import clips, make_clips, make_gif, world
from dataset.shapes.language import INVERSE
from minigpt4.processors.video import video_info


def place(clip: clips.Clip, frame: int) -> tuple[float, float]:
    """The middle (x, y) of the small thing, which is in front."""
    colour = np.array(world.COLOURS[clip.things[0].colour])
    near = np.abs(np.asarray(clip.frames[frame]).astype(int) - colour).max(-1) < 30
    rows, columns = near.nonzero()
    return float(columns.mean()), float(rows.mean())


def test_a_thing_moves_where_the_answer_says() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(40):
        clip = clips.draw_clip("direction", "train", rng)
        mover, other = clip.things
        assert (mover.size, other.size) == ("small", "big")
        if mover.colour == other.colour:
            continue  # the two cannot be told apart by colour
        ((question, answer),) = clip.questions
        assert question == "where does the small one move to?"
        (_, before), (_, after) = clip.lessons
        assert before.endswith(str(other)) and after.endswith(str(other))
        assert [INVERSE[before.removesuffix(f" {other}")].split()[0], after.split()[0]] == [answer] * 2
        (x1, y1), (x2, y2) = place(clip, 0), place(clip, -1)
        across, down = x2 - x1, y2 - y1
        moved = ("left", "right")[across > 0] if abs(across) > abs(down) else ("above", "below")[down > 0]
        assert moved == answer and max(abs(across), abs(down)) > 50
        seen.add(answer)
    assert seen == {"left", "right", "above", "below"}


@pytest.mark.parametrize("kind", ["order", "count"])
def test_one_picture_follows_another(kind: str) -> None:
    clip = clips.draw_clip(kind, "train", random.Random(1))
    pictures = [np.asarray(frame).tobytes() for frame in clip.frames]
    assert len(set(pictures)) == 2 and pictures == sorted(pictures, key=pictures.index)
    answers = [answer for _, answer in clip.questions]
    if kind == "order":
        assert answers == [str(thing) for thing in clip.things]
    else:
        assert sorted(answers) == ["one", "two"]


@pytest.mark.parametrize(("split", "held_out"), [("train", False), ("test", True)])
def test_what_moves_and_comes_alone_is_held_out_in_test(split: str, held_out: bool) -> None:
    rng = random.Random(2)
    for _ in range(20):
        mover, other = clips.draw_clip("direction", split, rng).things
        things = [mover, *clips.draw_clip("order", split, rng).things]
        assert all(((thing.colour, thing.shape) in world.HELD_OUT) == held_out for thing in things)
        assert (other.colour, other.shape) not in world.HELD_OUT


def test_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        make_clips.write_split(tmp_path / folder, "test", 4, seed=0)
    lines = [json.loads(line) for line in (tmp_path / "a/test.jsonl").read_text().splitlines()]
    assert [line["group"] for line in lines] == ["direction", "order", "direction", "count"]
    for line in lines:
        info = video_info(tmp_path / "a" / line["video"])
        assert (info.frames, info.fps, info.width, info.height) == (8, 4.0, 112, 112)
        assert (tmp_path / "a" / line["video"]).read_bytes() == (tmp_path / "b" / line["video"]).read_bytes()
    assert {line["question"] for line in lines[::2]} == {"where does the small one move to?"}
    make_clips.write_split(tmp_path, "train", 24, seed=0)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    asked = [line["question"] for line in lines if line["group"] == "direction"]
    assert len(asked) == 16 and len(set(asked)) == 3
    make_gif.draw_gif(tmp_path / lines[0]["video"], "?", "left", tmp_path / "clip.gif")
    with Image.open(tmp_path / "clip.gif") as drawn:
        assert drawn.size == (224, 268) and drawn.n_frames >= 6  # those that stand still are one

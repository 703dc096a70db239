"""Pictures of the drawn world with the box of everything in them, at twice the usual size."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dataset.shapes import make_shards, world
from minigpt4.processors.boxes import format_box, format_phrase, to_grid

TIMES = 2  # MiniGPT-v2 sees twice as many pixels a side as MiniGPT-4
SIDE = world.SIDE * TIMES
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Picture:
    """A scene as drawn.

    Attributes:
        number: its id.
        boxes: of each thing: left, top, right, bottom in pixels.
        jpeg: the file.
    """

    number: int
    split: str
    scene: world.Scene
    boxes: tuple[tuple[float, ...], ...]
    jpeg: bytes

    @property
    def coco_name(self) -> str:
        """As the pictures of COCO's training set of 2014 are called."""
        return f"COCO_train2014_{self.number:012d}.jpg"

    @property
    def caption(self) -> str:
        return world.caption(self.scene)

    def box(self, index: int) -> str:
        """The box of a thing as MiniGPT-v2 writes it: `{<x1><y1><x2><y2>}`."""
        return format_box(to_grid(self.boxes[index], (SIDE, SIDE)))

    def corner_and_size(self, index: int) -> list[float]:
        """The box of a thing as COCO writes it: left, top, width, height in pixels."""
        left, top, right, bottom = self.boxes[index]
        return [round(value, 2) for value in (left, top, right - left, bottom - top)]

    def grounded(self) -> str:
        """The caption with the box of each thing behind it."""
        phrases = [
            format_phrase(str(thing), [to_grid(box, (SIDE, SIDE))])
            for thing, box in zip(self.scene.things, self.boxes, strict=True)
        ]
        return f" {self.scene.relation} ".join(phrases)


def draw(counts: dict[str, int], seed: str) -> list[Picture]:
    """Draws pictures of scenes of each split, numbered from 1. The same seed gives the same pictures."""
    pictures = []
    for split, count in counts.items():
        rng = random.Random(f"{seed} {split}")
        for _ in range(count):
            scene = world.sample_scene(split, make_shards.SINGLE_SHARE[split], rng)
            layout = world.lay_out(scene, rng)
            boxes = tuple(
                tuple(TIMES * value for value in world.bounds(thing, spot))
                for thing, spot in zip(scene.things, layout.placements, strict=True)
            )
            file = world.jpeg(world.draw(scene, layout, TIMES))
            pictures.append(Picture(len(pictures) + 1, split, scene, boxes, file))
    return pictures


def of_split(pictures: Sequence[Picture], split: str) -> list[Picture]:
    """Those of one split."""
    return [picture for picture in pictures if picture.split == split]


def store(pictures: Sequence[Picture], folder: Path, coco: bool = False) -> None:
    """Writes the files: `NUMBER.jpg`, or COCO's names."""
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        name = picture.coco_name if coco else f"{picture.number}.jpg"
        (folder / name).write_bytes(picture.jpeg)

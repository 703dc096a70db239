"""Boxes as MiniGPT-v2 writes them: whole percentages of the image's width and height.

A box is the text `{<x1><y1><x2><y2>}`, and a phrase with the boxes of what it names is
`<p>two dogs</p> {<2><30><45><90>}<delim>{<50><28><99><91>}` (Chen et al. 2023, "MiniGPT-v2: large language
model as a unified interface for vision-language multi-task learning").

Models write these texts, so they are read without trust: what is not a box on the grid is passed over.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GRID = 100  # coordinates run from 0 to this, both included
DELIMITER = "<delim>"  # between the boxes of one phrase

# Bounded repetitions: the time to search a text grows with its length alone. Some tokenizers put spaces
# between the numbers.
_BOX = re.compile(r"\{\s?" + r"\s?".join([r"<\s?(\d{1,3})\s?>"] * 4) + r"\s?\}", re.ASCII)
_SEPARATOR = re.compile(rf"\s{{0,3}}(?:{DELIMITER})?\s{{0,3}}", re.ASCII)
_MARKS = re.compile(rf"\s?{_BOX.pattern}|{DELIMITER}|</?p>", re.ASCII)
_PHRASE = re.compile(r"<p>([^<]{1,500})</p>")
LONGEST_LABEL = 60  # characters drawn beside a box

Colour = tuple[int, int, int]


class Box(NamedTuple):
    """Left, top, right and bottom on the grid, from 0 to 100."""

    x1: int
    y1: int
    x2: int
    y2: int


class Phrase(NamedTuple):
    """A phrase with its boxes, and where it stands: `source[start:end]` runs from `<p>` to the last box."""

    text: str
    boxes: tuple[Box, ...]
    start: int
    end: int


def format_box(box: Box) -> str:
    """A box as text: `{<x1><y1><x2><y2>}`."""
    return "{" + "".join(f"<{coordinate}>" for coordinate in box) + "}"


def format_phrase(phrase: str, boxes: Iterable[Box]) -> str:
    """A phrase and the boxes of what it names: `<p>phrase</p> {<x1>…}<delim>{<x1>…}`."""
    return f"<p>{phrase}</p> {DELIMITER.join(map(format_box, boxes))}"


def parse_boxes(text: str) -> list[Box]:
    """All boxes in a text, in order; boxes that leave the grid or have swapped corners are left out."""
    return [box for found in _BOX.finditer(text) if (box := _checked(found)) is not None]


def parse_phrases(text: str) -> list[Phrase]:
    """All `<p>phrase</p>` that are followed by at least one box, in order."""
    phrases = []
    for found in _PHRASE.finditer(text):
        boxes, end = _boxes_at(text, found.end())
        if boxes:
            phrases.append(Phrase(found[1].strip(), tuple(boxes), found.start(), end))
    return phrases


def split_boxes(text: str) -> list[str | Phrase]:
    """A text in order: plain parts, phrases with boxes, and boxes without a phrase, whose text is empty."""
    parts: list[str | Phrase] = []
    place = 0
    for phrase in sorted([*parse_phrases(text), *_alone(text)], key=lambda one: one.start):
        if phrase.start >= place:
            parts += [text[place : phrase.start], phrase]
            place = phrase.end
    return [part for part in [*parts, text[place:]] if part]


def without_boxes(text: str) -> str:
    """A grounded text as plain words: without boxes, delimiters and the marks of phrases."""
    return " ".join(_MARKS.sub("", text).split())


def to_grid(box: Sequence[float], size: tuple[int, int]) -> Box:
    """A box in pixels on the grid.

    As in the original, a coordinate is `int(x / width * 100)`: rounded down, never to the nearest. What
    annotators drew beyond the edge of the image is moved onto it.

    Args:
        box: left, top, right and bottom in pixels.
        size: (height, width) of the image, as in `Sample.size`.

    Raises:
        ValueError: if a coordinate is not a finite number, or the corners are swapped.
    """
    height, width = size
    scaled = [float(at) / side * GRID for at, side in zip(box, (width, height) * 2, strict=True)]
    if not np.isfinite(scaled).all() or scaled[0] > scaled[2] or scaled[1] > scaled[3]:
        raise ValueError(f"{list(box)} is not a box: left, top, right, bottom in pixels")
    return Box(*(int(min(max(at, 0), GRID)) for at in scaled))


def to_pixels(box: Box, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box on the grid -> left, top, right and bottom in pixels of an image of `size` (height, width)."""
    height, width = size
    return box.x1 * width / GRID, box.y1 * height / GRID, box.x2 * width / GRID, box.y2 * height / GRID


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes in the same unit, by area; 0 where both have none."""
    overlap = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = _area(a) + _area(b) - overlap
    return overlap / union if union > 0 else 0.0


def draw_boxes(pixels: np.ndarray, boxes: Iterable[tuple[Box, str, Colour]]) -> np.ndarray:
    """An image with boxes drawn on it.

    Args:
        pixels: [H, W, 3], uint8 RGB.
        boxes: (box, label, colour); an empty label draws the box alone.

    Returns:
        A new array of the same shape.
    """
    image = Image.fromarray(pixels)
    size = pixels.shape[0], pixels.shape[1]
    line = max(1, round(min(size) / 150))
    font = ImageFont.load_default(size=max(10, round(min(size) / 25)))
    draw = ImageDraw.Draw(image)
    for box, label, colour in boxes:
        x1, y1, x2, y2 = to_pixels(box, size)
        x2, y2 = min(x2, size[1] - 1), min(y2, size[0] - 1)
        draw.rectangle((min(x1, x2), min(y1, y2), x2, y2), outline=colour, width=line)
        label = " ".join(label[:LONGEST_LABEL].split())
        if label:
            _draw_label(draw, (x1, y1), label, colour, font)
    return np.asarray(image)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    label: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Draw the label on its colour: above the box, or inside it; further left where the image ends."""
    left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
    x, y = corner[0], corner[1] - (bottom - top) - 2
    x = max(0, min(x, draw.im.size[0] - (right - left) - 3))
    y = corner[1] if y < 0 else y
    draw.rectangle((x, y, x + right - left + 2, y + bottom - top + 2), fill=colour)
    dark = sum(colour) > 3 * 128
    draw.text((x + 1 - left, y + 1 - top), label, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)


def _checked(found: re.Match[str]) -> Box | None:
    box = Box(*(int(number) for number in found.groups()))
    return box if max(box) <= GRID and box.x1 <= box.x2 and box.y1 <= box.y2 else None


def _boxes_at(text: str, place: int) -> tuple[list[Box], int]:
    """The boxes that follow each other from `place` on, and where the last of them ends."""
    boxes, end = [], place
    while found := _BOX.match(text, _SEPARATOR.match(text, end).end()):  # type: ignore[union-attr]
        end = found.end()
        if (box := _checked(found)) is not None:
            boxes.append(box)
    return boxes, end


def _alone(text: str) -> Iterator[Phrase]:
    """Boxes that follow each other, without regard to a phrase before them."""
    place = 0
    while found := _BOX.search(text, place):
        boxes, place = _boxes_at(text, found.start())
        if boxes:
            yield Phrase("", tuple(boxes), found.start(), place)


def _area(box: Sequence[float]) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])

"""A small drawn world: coloured shapes at 56x56 pixels, and what a caption says about them.

A *scene* is what the caption says: one thing, or two things and how they stand to each other.
A *layout* is what the caption leaves open: positions, exact radii, shades, tilt, background.
Many pictures show one scene. The splits train, val and test share no scene, and the pairs of
colour and shape in `HELD_OUT` are in no training scene at all, so val and test ask for things
that were never shown.

Everything here is a pure function of its arguments; randomness comes in as a `random.Random`.
"""

from __future__ import annotations

import hashlib
import io
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw

SIDE = 56  # pixels
SIZES = ("small", "big")
SHAPES = ("circle", "square", "triangle", "star", "cross")
RELATIONS = ("left of", "above")  # the thing named first is the left, or the upper, one
SPLITS = ("train", "val", "test")

Rgb = tuple[int, int, int]
COLOURS: dict[str, Rgb] = {
    "red": (212, 36, 40),
    "green": (36, 150, 62),
    "blue": (38, 84, 214),
    "yellow": (238, 214, 40),
    "purple": (134, 52, 172),
    "orange": (242, 132, 24),
}

# Every shape is in one of them, and every colour except orange: each is seen, their pair is not.
# The one-object scenes of the first two are in val, those of the other three in test.
HELD_OUT = (
    ("red", "star"),
    ("green", "circle"),
    ("blue", "triangle"),
    ("yellow", "cross"),
    ("purple", "square"),
)
HELD_OUT_SINGLES_IN_VAL = 2

NONE = "none"  # the word for an attribute that a scene of one thing has not
SLOTS = ("count", "size1", "colour1", "shape1", "relation", "size2", "colour2", "shape2")

_RADIUS = {"small": (5.5, 7.0), "big": (10.0, 12.0)}  # pixels
_MARGIN = 2.0  # pixels between a thing and the border, or another thing
_OVERSAMPLING = 4  # drawn that much larger, then averaged down: smooth edges
_TILT = math.radians(8)
_SHADE = 14  # of 255, how far a channel may stray from its colour


@dataclass(frozen=True)
class Thing:
    """One object, as a caption names it."""

    size: str
    colour: str
    shape: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a caption says: one thing and no relation, or two things and a relation."""

    things: tuple[Thing, ...]
    relation: str | None = None

    def __post_init__(self) -> None:
        if (len(self.things), self.relation is None) not in {(1, True), (2, False)}:
            raise ValueError("A scene has one thing and no relation, or two things and a relation.")


@dataclass(frozen=True)
class Placement:
    """Where and how a thing is drawn: centre and radius in pixels, tilt in radians."""

    x: float
    y: float
    radius: float
    tilt: float
    rgb: Rgb


@dataclass(frozen=True)
class Layout:
    """Everything a picture shows beyond its scene; one placement per thing."""

    placements: tuple[Placement, ...]
    background: Rgb


def caption(scene: Scene) -> str:
    """The caption of a scene, e.g. "a small blue star above a big green square"."""
    if scene.relation is None:
        return str(scene.things[0])
    return f"{scene.things[0]} {scene.relation} {scene.things[1]}"


def parse_caption(text: str) -> Scene:
    """Reads a caption back into its scene.

    Raises:
        ValueError: if the text is not a caption of this world.
    """
    for relation in RELATIONS:
        first, found, second = text.partition(f" {relation} ")
        if found:
            return Scene((_parse_thing(first), _parse_thing(second)), relation)
    return Scene((_parse_thing(text),))


def _parse_thing(text: str) -> Thing:
    words = text.split(" ")
    if len(words) == 4 and words[0] == "a":
        thing = Thing(*words[1:])
        if thing.size in SIZES and thing.colour in COLOURS and thing.shape in SHAPES:
            return thing
    raise ValueError(f"Not a thing of this world: {text!r}")


def attributes(scene: Scene) -> tuple[str, ...]:
    """One word for each of `SLOTS`; `NONE` where the scene has no such attribute."""
    first, *rest = scene.things
    words = ("two" if rest else "one", first.size, first.colour, first.shape)
    if scene.relation is None or not rest:
        return (*words, NONE, NONE, NONE, NONE)
    return (*words, scene.relation.split()[0], rest[0].size, rest[0].colour, rest[0].shape)


def all_scenes() -> Iterator[Scene]:
    """Every scene of the world: 60 of one thing, 7080 of two different things."""
    things = [Thing(s, c, f) for s in SIZES for c in COLOURS for f in SHAPES]
    yield from (Scene((thing,)) for thing in things)
    for first in things:
        for second in things:
            if first != second:
                yield from (Scene((first, second), relation) for relation in RELATIONS)


def split_of(scene: Scene) -> str:
    """The split that a scene belongs to; depends on nothing but the scene."""
    unseen = [p for p in ((t.colour, t.shape) for t in scene.things) if p in HELD_OUT]
    if scene.relation is None:
        if not unseen:
            return "train"
        return "val" if unseen[0] in HELD_OUT[:HELD_OUT_SINGLES_IN_VAL] else "test"
    # Python's own hash of a string differs from run to run.
    digest = hashlib.blake2b(caption(scene).encode(), digest_size=8).digest()
    percent = int.from_bytes(digest, "big") % 100
    if unseen:
        return "val" if percent < 50 else "test"
    return "train" if percent < 84 else "val" if percent < 92 else "test"


@lru_cache(maxsize=len(SPLITS))
def scenes_of(split: str) -> tuple[tuple[Scene, ...], tuple[Scene, ...]]:
    """All scenes of a split: those of one thing, and those of two."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; one of {', '.join(SPLITS)}.")
    mine = [scene for scene in all_scenes() if split_of(scene) == split]
    singles = tuple(scene for scene in mine if len(scene.things) == 1)
    return singles, tuple(scene for scene in mine if len(scene.things) == 2)


def sample_scene(split: str, single_share: float, rng: random.Random) -> Scene:
    """Draws a scene of a split; of one thing with probability `single_share`."""
    singles, pairs = scenes_of(split)
    return rng.choice(singles if rng.random() < single_share else pairs)


def lay_out(scene: Scene, rng: random.Random) -> Layout:
    """Chooses what the scene leaves open."""
    radii = [rng.uniform(*_RADIUS[thing.size]) for thing in scene.things]
    if scene.relation is None:
        low, high = radii[0] + _MARGIN, SIDE - radii[0] - _MARGIN
        centres = [(rng.uniform(low, high), rng.uniform(low, high))]
    else:
        centres = _two_centres(radii, rng)
        if scene.relation == "above":
            centres = [(y, x) for x, y in centres]
    placements = tuple(
        Placement(x, y, radius, rng.uniform(-_TILT, _TILT), _shade(COLOURS[thing.colour], rng))
        for thing, (x, y), radius in zip(scene.things, centres, radii, strict=True)
    )
    grey = rng.randint(100, 245)
    return Layout(placements, _shade((grey, grey, grey), rng))


def _two_centres(radii: list[float], rng: random.Random) -> list[tuple[float, float]]:
    """Places the first thing clearly left of the second: further apart along x than along y."""
    closest = sum(radii) + _MARGIN
    slack = SIDE - 2 * _MARGIN - 2 * sum(radii) - _MARGIN
    distance = closest + rng.random() * slack
    x1 = radii[0] + _MARGIN + rng.random() * (slack - (distance - closest))
    low, high = (
        [radius + _MARGIN for radius in radii],
        [SIDE - radius - _MARGIN for radius in radii],
    )
    y1 = rng.uniform(low[0], high[0])
    y2 = rng.uniform(max(low[1], y1 - distance / 2), min(high[1], y1 + distance / 2))
    return [(x1, y1), (x1 + distance, y2)]


def _shade(rgb: Rgb, rng: random.Random) -> Rgb:
    red, green, blue = (min(255, max(0, c + rng.randint(-_SHADE, _SHADE))) for c in rgb)
    return red, green, blue


def draw(scene: Scene, layout: Layout, times: int = 1) -> Image.Image:
    """Draws a scene as laid out: an RGB picture, each side `times` `SIDE` pixels."""
    scale = _OVERSAMPLING * times
    image = Image.new("RGB", (SIDE * scale, SIDE * scale), layout.background)
    pen = ImageDraw.Draw(image)
    for thing, spot in zip(scene.things, layout.placements, strict=True):
        if thing.shape == "circle":
            pen.ellipse([scale * v for v in bounds(thing, spot)], fill=spot.rgb)
            continue
        pen.polygon([(scale * x, scale * y) for x, y in _corners(thing.shape, spot)], fill=spot.rgb)
    return image.reduce(_OVERSAMPLING)


def bounds(thing: Thing, spot: Placement) -> tuple[float, float, float, float]:
    """The smallest box around a thing as drawn: left, top, right, bottom in pixels of a `SIDE` picture."""
    if thing.shape == "circle":
        return spot.x - spot.radius, spot.y - spot.radius, spot.x + spot.radius, spot.y + spot.radius
    xs, ys = zip(*_corners(thing.shape, spot), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _corners(shape: str, spot: Placement) -> list[tuple[float, float]]:
    cos, sin = math.cos(spot.tilt) * spot.radius, math.sin(spot.tilt) * spot.radius
    return [(spot.x + u * cos - v * sin, spot.y + u * sin + v * cos) for u, v in _outline(shape)]


@lru_cache(maxsize=len(SHAPES))
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    """Corners of a shape around (0, 0) in units of its radius; y grows downwards."""
    if shape == "square":
        return ((-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85))
    if shape == "triangle":
        return ((0.0, -1.0), (0.95, 0.75), (-0.95, 0.75))
    if shape == "star":
        radii = [1.1 if corner % 2 == 0 else 0.45 for corner in range(10)]
        angles = [math.pi * corner / 5 for corner in range(10)]
        return tuple((r * math.sin(a), -r * math.cos(a)) for r, a in zip(radii, angles, strict=True))
    if shape == "cross":
        thin = 0.3
        quarter = [(thin, -1.0), (thin, -thin), (1.0, -thin)]
        turns = [lambda u, v: (u, v), lambda u, v: (-v, u)]
        turns += [lambda u, v: (-u, -v), lambda u, v: (v, -u)]
        return tuple(turn(u, v) for turn in turns for u, v in quarter)
    raise ValueError(f"Unknown shape {shape!r}; one of {', '.join(SHAPES)}.")


def jpeg(image: Image.Image) -> bytes:
    """The JPEG file of a picture in the data set."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return buffer.getvalue()

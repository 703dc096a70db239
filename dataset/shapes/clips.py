"""The drawn world moves: short clips, with questions that only the order of the frames can answer.

Three kinds of clips:

- `direction`: a thing moves past another: "where does the small one move to?" - "left"
- `order`: one thing follows another: "what comes first?" - "a small blue star"
- `count`: a thing appears or vanishes: "how many shapes are there at the end?" - "two"

Each clip shown backwards is a clip of the same kind with the opposite answer: whoever does not read the order
of the frames cannot tell. Things move past another because the tiny Q-Former sees what is left of what, or
above it, but not where in the picture a thing is; and they move "above" or "below" because the tiny language
models know these words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from PIL import Image

from dataset.shapes import world
from dataset.shapes.language import INVERSE
from dataset.shapes.world import SIDE, Layout, Scene, Thing

FRAMES = 8
FPS = 4
TIMES = 2  # pixels a side, in SIDEs: a codec blurs smaller ones
HOLD = 2  # frames at both ends in which nothing moves
_MARGIN = 2.0  # pixels of SIDE between a thing and the border
_OFF_LINE = 2.0  # pixels that the two things may be apart across the way


@dataclass(frozen=True)
class Clip:
    """A clip and what is asked about it.

    Attributes:
        kind: `direction`, `order` or `count`.
        things: in it.
        frames: RGB pictures, each side TIMES * SIDE pixels.
        questions: (question, answer) pairs.
        lessons: likewise, for training alone: smaller questions, in words that the tiny models know.
    """

    kind: str
    things: tuple[Thing, ...]
    frames: tuple[Image.Image, ...]
    questions: tuple[tuple[str, str], ...]
    lessons: tuple[tuple[str, str], ...] = ()


def draw_clip(kind: str, split: str, rng: random.Random) -> Clip:
    """Draws a clip of a kind, of the things of a split."""
    return {"direction": _direction, "order": _order, "count": _count}[kind](split, rng)


def _thing(split: str, rng: random.Random) -> Thing:
    """In test a thing whose colour and shape are never together in train."""
    return world.sample_scene(split, 1.0, rng).things[0]


def _draw(scene: Scene, layout: Layout) -> Image.Image:
    return world.draw(scene, layout, TIMES)


def _direction(split: str, rng: random.Random) -> Clip:
    """A small thing crosses the picture and passes in front of a big one."""
    mover = replace(_thing(split, rng), size="small")
    other = replace(_thing("train", rng), size="big")
    scene = Scene((other, mover), "left of")
    layout = world.lay_out(scene, rng)
    there, spot = layout.placements
    middle = SIDE / 2 + rng.uniform(-_OFF_LINE, _OFF_LINE)
    across = rng.uniform(0.3, 0.7) * SIDE
    beside = across + rng.uniform(-_OFF_LINE, _OFF_LINE)
    ends = [spot.radius + _MARGIN, SIDE - spot.radius - _MARGIN]
    answer = rng.choice(("left", "right", "above", "below"))
    start, end = ends if answer in ("right", "below") else ends[::-1]
    frames = []
    for frame in range(FRAMES):
        share = min(max((frame - HOLD + 1) / (FRAMES - 2 * HOLD + 1), 0.0), 1.0)
        places = [(middle, across), (start + (end - start) * share, beside)]
        if answer in ("above", "below"):
            places = [(y, x) for x, y in places]
        moved = [replace(one, x=x, y=y) for one, (x, y) in zip((there, spot), places, strict=True)]
        frames.append(_draw(scene, replace(layout, placements=tuple(moved))))
    questions = (("where does the small one move to?", answer),)
    sides = {word.split()[0]: (word, INVERSE[word]) for word in INVERSE}
    last, first = sides[answer]
    lessons = (
        ("where is the small one in the first picture?", f"{first} {other}"),
        ("where is the small one in the last picture?", f"{last} {other}"),
    )
    return Clip("direction", (mover, other), tuple(frames), questions, lessons)


def _order(split: str, rng: random.Random) -> Clip:
    first, second = _thing(split, rng), _thing(split, rng)
    while second == first:
        second = _thing(split, rng)
    background = world.lay_out(Scene((first,)), rng).background
    shown = [
        _draw(Scene((one,)), replace(world.lay_out(Scene((one,)), rng), background=background))
        for one in (first, second)
    ]
    questions = (("what comes first?", str(first)), ("what comes last?", str(second)))
    return Clip("order", (first, second), _changing(shown, rng), questions)


def _count(split: str, rng: random.Random) -> Clip:
    scene = world.sample_scene(split, 0.0, rng)
    layout, stays = world.lay_out(scene, rng), rng.randrange(2)
    alone = replace(layout, placements=(layout.placements[stays],))
    shown = [_draw(Scene((scene.things[stays],)), alone), _draw(scene, layout)]
    counts = ["one", "two"]
    if rng.random() < 0.5:
        shown, counts = shown[::-1], counts[::-1]
    asked = ("how many shapes are there at first?", "how many shapes are there at the end?")
    return Clip("count", scene.things, _changing(shown, rng), tuple(zip(asked, counts, strict=True)))


def _changing(shown: list[Image.Image], rng: random.Random) -> tuple[Image.Image, ...]:
    """The first picture, and from about the middle on the second."""
    change = rng.randint(HOLD + 1, FRAMES - HOLD - 1)
    return tuple(shown[frame >= change] for frame in range(FRAMES))

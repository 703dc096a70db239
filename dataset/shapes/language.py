"""What the tiny language models are taught to say about a list of attribute words.

A language model that only knows captions cannot be told anything through a linear map. One that
says what its context lists can: stage 1 then has to find the word embedding for each query. The
vocabulary here is wider than the drawn world's, so that listing back is learned as such, and no
pair in `world.HELD_OUT`, nor any scene of val or test, is ever said.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dataset.shapes import world
from dataset.shapes.world import Scene, Thing, attributes, caption

SIZES = (*world.SIZES, "tiny", "huge", "little", "large")
COLOURS = (*world.COLOURS, "pink", "brown", "black", "white", "grey", "cyan", "gold", "silver")
COLOURS += ("teal", "violet")
SHAPES = (*world.SHAPES, "heart", "ring", "arrow", "moon", "diamond", "hexagon", "cube", "cone")
SHAPES += ("leaf",)
# A relation, and what it is called from the other side.
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
CONTEXT_WORDS = (
    *("one", "two", world.NONE),
    *(relation.split()[0] for relation in INVERSE),
    *SIZES,
    *COLOURS,
    *SHAPES,
)

DESCRIBE = (
    "describe this image",
    "describe the picture",
    "describe this image in detail",
    "describe what you see",
    "what do you see",
    "what is in this image",
    "what is in the picture",
    "what does the image show",
    "write a caption for this image",
    "please provide a detailed description of the picture",
    "could you describe the contents of this image for me",
    "take a look at this image and describe what you notice",
)
COUNT = (
    "how many shapes are there",
    "how many shapes do you see",
    "how many shapes are in this image",
    "how many objects are there",
    "how many objects are in the picture",
    "how many things do you see",
)
GREETINGS = ("hello", "hi", "hey", "hello there", "good morning")
GREETING = "hello! show me a picture and ask me about it."
NO_PICTURE = "please show me a picture first."

ORDINALS = ("first", "second", "third")
DESCRIBE_ONE = (  # of several
    "describe {}",
    "what is in {}",
    "what do you see in {}",
    "what does {} show",
)
COUNT_PICTURES = (
    "how many pictures do you see",
    "how many pictures are there",
    "how many images do you see",
    "how many images did i show you",
)

QA = tuple[str, str]


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    answer: str


def random_scene(rng: random.Random) -> Scene:
    """A scene that may be said; in half of all cases one of the drawn world."""
    while True:
        if rng.random() < 0.5:
            sizes, colours, shapes = world.SIZES, tuple(world.COLOURS), world.SHAPES
            relations: tuple[str, ...] = world.RELATIONS
        else:
            sizes, colours, shapes, relations = SIZES, COLOURS, SHAPES, tuple(INVERSE)
        count = 1 if rng.random() < 0.3 else 2
        things = tuple(
            Thing(rng.choice(sizes), rng.choice(colours), rng.choice(shapes)) for _ in range(count)
        )
        scene = Scene(things, rng.choice(relations) if count == 2 else None)
        if may_be_said(scene):
            return scene


def may_be_said(scene: Scene) -> bool:
    """Whether a scene may stand in the training text."""
    if any((thing.colour, thing.shape) in world.HELD_OUT for thing in scene.things):
        return False
    if len(set(scene.things)) < len(scene.things):
        return False
    try:
        return world.split_of(world.parse_caption(caption(scene))) == "train"
    except ValueError:  # not of the drawn world
        return True


def refer(scene: Scene, index: int, hidden: str, rng: random.Random) -> str | None:
    """Names one thing so that no other is meant, without saying its attribute `hidden`."""
    thing = scene.things[index]
    ways = []
    for parts in (("shape",), ("colour",), ("size",), ("colour", "shape"), ("size", "shape")):
        if hidden in parts:
            continue
        values = [getattr(thing, part) for part in parts]
        if any(
            values == [getattr(other, part) for part in parts]
            for place, other in enumerate(scene.things)
            if place != index
        ):
            continue
        if tuple(values) not in world.HELD_OUT:
            ways.append("the " + " ".join(values) + ("" if "shape" in parts else " one"))
    return rng.choice(ways) if ways else None


def _ask_description(scene: Scene, rng: random.Random) -> QA | None:
    return rng.choice(DESCRIBE), caption(scene)


def _ask_count(scene: Scene, rng: random.Random) -> QA | None:
    return rng.choice(COUNT), attributes(scene)[0]


def _ask_attribute(scene: Scene, rng: random.Random) -> QA | None:
    index = rng.randrange(len(scene.things))
    asked = rng.choice(("colour", "shape", "size"))
    name = refer(scene, index, asked, rng)
    if name is None:
        return None
    word = rng.choice(("colour", "color")) if asked == "colour" else asked
    question = f"what {word} is {name}"
    if asked == "size" and rng.random() < 0.5:
        question = f"how big is {name}"
    if asked == "shape" and name.endswith(" one") and rng.random() < 0.5:
        question = f"what shape is {name.removeprefix('the ').removesuffix(' one')}"
    return question, getattr(scene.things[index], asked)


def _ask_missing(scene: Scene, rng: random.Random) -> QA | None:
    shape = rng.choice(SHAPES)
    if any(thing.shape == shape for thing in scene.things):
        return None
    asked = rng.choice(("what colour is", "what color is", "what size is", "how big is"))
    return f"{asked} the {shape}", f"there is no {shape}"


def _ask_relation(scene: Scene, rng: random.Random) -> QA | None:
    index = rng.randrange(len(scene.things))
    name = refer(scene, index, "", rng)
    if name is None:
        return None
    if scene.relation is None:
        return f"what is {rng.choice(tuple(INVERSE))} {name}", "nothing"
    # The other thing stands to this one as the relation says, seen from the right side.
    to_this = INVERSE[scene.relation] if index == 0 else scene.relation
    other = scene.things[1 - index]
    if rng.random() < 0.3:
        return f"where is {name}", f"{INVERSE[to_this]} {other}"
    if rng.random() < 0.2:
        return f"what is {INVERSE[to_this]} {name}", "nothing"
    return f"what is {to_this} {name}", str(other)


def _ask_presence(scene: Scene, rng: random.Random) -> QA | None:
    here = rng.choice(scene.things)
    wide = any(
        value not in (*world.SIZES, *world.COLOURS, *world.SHAPES)
        for thing in scene.things
        for value in (thing.size, thing.colour, thing.shape)
    )
    colours, shapes = (COLOURS, SHAPES) if wide else (tuple(world.COLOURS), world.SHAPES)
    colour, shape = here.colour, here.shape
    if rng.random() < 0.5:
        colour = rng.choice(colours)
    if rng.random() < 0.5:
        shape = rng.choice(shapes)
    kind = rng.randrange(3)
    if kind == 2 and (colour, shape) in world.HELD_OUT:
        return None
    matches = (
        lambda thing: thing.shape == shape,
        lambda thing: thing.colour == colour,
        lambda thing: (thing.colour, thing.shape) == (colour, shape),
    )[kind]
    name = (shape, f"{colour} {rng.choice(('shape', 'thing'))}", f"{colour} {shape}")[kind]
    article = "an" if name[0] in "aeiou" else "a"
    opening = rng.choice(("is there", "do you see", "can you see"))
    return f"{opening} {article} {name}", "yes" if any(map(matches, scene.things)) else "no"


Ask = Callable[[Scene, random.Random], QA | None]
_ASK_DETAIL: dict[Ask, float] = {
    _ask_count: 1.0,
    _ask_attribute: 4.0,
    _ask_missing: 0.5,
    _ask_relation: 2.0,
    _ask_presence: 2.5,
}
_ASK: dict[Ask, float] = {_ask_description: 3.0, **_ASK_DETAIL}


def _draw(scene: Scene, kinds: dict[Ask, float], rng: random.Random) -> QA:
    while True:
        found = rng.choices(tuple(kinds), tuple(kinds.values()))[0](scene, rng)
        if found is not None:
            return found


def ask(scene: Scene, rng: random.Random) -> Turn:
    """A question about a scene, and the answer."""
    question, answer = _draw(scene, _ASK, rng)
    return Turn(dress(question, rng), answer)


def ask_detail(scene: Scene, rng: random.Random) -> Turn:
    """A question about a part of a scene, and the short answer."""
    question, answer = _draw(scene, _ASK_DETAIL, rng)
    return Turn(dress(question, rng), answer)


def ask_about(shown: Sequence[Scene], fresh: int, rng: random.Random) -> Turn:
    """A question in a dialogue about one or more pictures; see `ask_among`."""
    if len(shown) == 1 and rng.random() < 0.8:
        return ask(shown[0], rng)
    return ask_among(shown, fresh, rng)


def ask_among(shown: Sequence[Scene], fresh: int, rng: random.Random) -> Turn:
    """A question about one of several pictures, and the answer.

    Without "in the first picture" or the like, it is about the picture that was shown last, or describes
    those that came together.

    Args:
        shown: the scenes of all pictures so far, in order.
        fresh: how many of them come with this question.
    """
    kind = rng.random()
    if kind < 0.05:
        return Turn(dress(rng.choice(COUNT_PICTURES), rng), ("one", "two", "three")[len(shown) - 1])
    noun = rng.choice(("picture", "image"))
    if kind < 0.1 and len(shown) < len(ORDINALS):
        missing = rng.choice(ORDINALS[len(shown) :])
        question = rng.choice(DESCRIBE_ONE).format(f"the {missing} {noun}")
        return Turn(dress(question, rng), f"there is no {missing} picture")
    if fresh > 1 and kind < 0.3:
        captions = " and ".join(map(caption, shown[-fresh:]))
        return Turn(dress(rng.choice((*DESCRIBE, "describe both", "describe them")), rng), captions)
    if fresh <= 1 and kind < 0.4:
        return ask(shown[-1], rng)
    index = rng.randrange(len(shown))
    last = index == len(shown) - 1 and rng.random() < 0.3
    name = f"the {'last' if last else ORDINALS[index]} {noun}"
    if rng.random() < 0.35:
        return Turn(dress(rng.choice(DESCRIBE_ONE).format(name), rng), caption(shown[index]))
    question, answer = _draw(shown[index], _ASK_DETAIL, rng)
    question = question.removesuffix(" in this image").removesuffix(" in the picture")
    question = f"in {name}, {question}" if rng.random() < 0.2 else f"{question} in {name}"
    return Turn(dress(question, rng), answer)


def dress(question: str, rng: random.Random) -> str:
    """Capitals and punctuation as people do or do not write them."""
    first = question.split()[0]
    mark = "." if first in ("describe", "write", "please", "take") else "?"
    if rng.random() < 0.4:
        question = question[0].upper() + question[1:]
    return question + (mark if rng.random() < 0.7 else "")


def greet(rng: random.Random) -> Turn:
    """A turn without any picture."""
    if rng.random() < 0.3:
        return Turn(dress(rng.choice((*DESCRIBE, *COUNT)), rng), NO_PICTURE)
    word = rng.choice(GREETINGS)
    if rng.random() < 0.4:
        word = word.capitalize()
    return Turn(word + rng.choice(("", "!", ".")), GREETING)

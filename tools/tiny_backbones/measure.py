"""Measures the tiny models with a trained projection: exact answers about pictures of the split test.

    python -m tools.tiny_backbones.measure --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml

Every question is asked greedily, in a chat, as people would ask it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable

from PIL import Image

import minigpt4
from dataset.shapes import language, world
from dataset.shapes.language import Turn
from dataset.shapes.world import Scene

GREEDY = {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 40}
# Pictures and a question for each turn of a dialogue, of which the last answer counts.
Dialogue = tuple[list[tuple[list[Scene], str]], str]


def described(rng: random.Random) -> Dialogue:
    """One picture is described."""
    scene = world.sample_scene("test", 0.5, rng)
    return [([scene], "Describe this image.")], world.caption(scene)


def asked(rng: random.Random) -> Dialogue:
    """A question about one picture."""
    scene = world.sample_scene("test", 0.5, rng)
    turn = language.ask(scene, rng)
    return [([scene], turn.question)], turn.answer


def _two(rng: random.Random) -> list[Scene]:
    return [world.sample_scene("test", 0.5, rng) for _ in range(2)]


def first_or_second(rng: random.Random) -> Dialogue:
    """Two pictures in one message, one of which is described."""
    scenes, which = _two(rng), rng.randrange(2)
    question = f"What is in the {language.ORDINALS[which]} picture?"
    return [(scenes, question)], world.caption(scenes[which])


def among_two(rng: random.Random) -> Dialogue:
    """Any question about two pictures in one message."""
    scenes = _two(rng)
    turn: Turn = language.ask_among(scenes, 2, rng)
    return [(scenes, turn.question)], turn.answer


def later(rng: random.Random) -> Dialogue:
    """A second picture comes with the second question, which describes it."""
    first, second = _two(rng)
    return [([first], "Describe this image."), ([second], "Describe this image.")], world.caption(second)


def back(rng: random.Random) -> Dialogue:
    """After the second picture, what is in the first one."""
    turns, _ = later(rng)
    (scene,) = turns[0][0]
    return [*turns, ([], "What is in the first picture?")], world.caption(scene)


KINDS: dict[str, Callable[[random.Random], Dialogue]] = {
    "one picture, described": described,
    "one picture, any question": asked,
    "two pictures in a message, the first or second described": first_or_second,
    "two pictures in a message, any question": among_two,
    "a second picture in a later message, described": later,
    "the first picture, after the second": back,
}


def main() -> None:
    """Prints one line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg-path", required=True)
    parser.add_argument("--options", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=200, help="dialogues of each kind")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = minigpt4.load(args.cfg_path, options=args.options)

    def picture(scene: Scene, rng: random.Random) -> Image.Image:
        return world.draw(scene, world.lay_out(scene, rng))

    for name, draw in KINDS.items():
        rng, right = random.Random(f"{name} {args.seed}"), 0
        for _ in range(args.count):
            turns, truth = draw(rng)
            chat, said = model.start_chat(), ""
            for scenes, question in turns:
                images = [picture(scene, rng) for scene in scenes]
                said = chat.ask(question, images=images, **GREEDY)
            right += said == truth
        print(f"| {name} | {right / args.count:.1%} |", flush=True)


if __name__ == "__main__":
    main()

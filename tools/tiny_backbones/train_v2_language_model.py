"""Teaches a tiny language model to say where things are.

    python -m tools.tiny_backbones.train_v2_language_model --family gemma --out minigpt4/assets/tiny/gemma_v2

The tiny language models were taught to restate a list of words, and never read a digit: in their vocabulary
all digits are as good as one. Here such a model reads lists that are twice as long, in the layout of
`train_v2_encoder`: eight words, and the edges of up to two things, each with the thing's attributes. It
learns MiniGPT-v2's tasks on them: `[refer] [identify] [grounding] [detection] [caption] [vqa]`. It sees no
picture; a linear layer that is thrown away turns facts into embeddings. As before, the vocabulary is wider
than the drawn world's, and no held-out pair nor any scene of val or test is ever said.

Letters: B samples, T tokens of a picture, F facts.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from dataset.shapes import language, world
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.processors.boxes import Box, format_box, format_phrase, to_grid
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.templates import IMAGE_TURN
from tools.tiny_backbones import train_v2_encoder as encoder
from tools.tiny_backbones.optimizer import MuonWithAdamW
from tools.tiny_backbones.train_encoder import WORDS

# The facts that an encoder states, and words that it has no idea of.
MORE_WORDS = tuple(word for word in language.CONTEXT_WORDS if word not in WORDS)
FACTS = encoder.FACTS + len(MORE_WORDS)
TOKENS = len(world.SLOTS) + encoder.THINGS * encoder.EDGES
NOISE = 0.05  # of each fact
SLIP = 0.005  # standard deviation of an edge, in parts of the picture
POOL = 12  # batches that are sorted by length together
POOLS = {name: Instructions.pool(name) for name in ("refer", "identify", "grounding", "caption", "vqa")}
BIG = ("big", "huge", "large")
INVERTED = {"right of": "left of", "below": "above"}

Told = tuple[str, str]
Tell = Callable[[world.Scene, list[Box], random.Random], Told]


def laid_out(scene: world.Scene, rng: random.Random) -> list[tuple[float, ...]]:
    """Where the things of any scene of the wider vocabulary are: boxes in parts of the picture."""
    relation = INVERTED.get(scene.relation or "", scene.relation)
    inverted = relation != scene.relation
    colour = next(iter(world.COLOURS))
    things = [
        world.Thing("big" if thing.size in BIG else "small", colour, rng.choice(world.SHAPES))
        for thing in scene.things
    ]
    drawn = world.Scene(tuple(reversed(things) if inverted else things), relation)
    layout = world.lay_out(drawn, rng)
    boxes = [
        tuple(value / world.SIDE for value in world.bounds(thing, spot))
        for thing, spot in zip(drawn.things, layout.placements, strict=True)
    ]
    return boxes[::-1] if inverted else boxes


def _column(word: str) -> int:
    return WORDS.index(word) if word in WORDS else encoder.FACTS + MORE_WORDS.index(word)


def facts(scene: world.Scene, boxes: list[tuple[float, ...]], rng: random.Random) -> torch.Tensor:
    """What an encoder would state of a picture, a little wrong: [T, F]."""
    places = torch.full((1, encoder.THINGS, encoder.EDGES), torch.nan)
    for index, box in enumerate(boxes):
        places[0, index] = torch.tensor([value + rng.gauss(0, SLIP) for value in box])
    nothing = torch.full((1, len(world.SLOTS)), -100)
    stated, _ = encoder.facts(nothing.numpy(), places.numpy())
    found = torch.zeros(TOKENS, FACTS)
    found[:, : encoder.FACTS] = torch.from_numpy(stated[0])
    for slot, word in enumerate(world.attributes(scene)):
        found[slot, _column(word)] = 1
    for index, thing in enumerate(scene.things):
        first = len(world.SLOTS) + index * encoder.EDGES
        for word in (thing.size, thing.colour, thing.shape):
            found[first : first + encoder.EDGES, _column(word)] = 1
    return found + torch.randn(found.shape) * NOISE


def _grounded(scene: world.Scene, boxes: list[Box]) -> str:
    pairs = zip(scene.things, boxes, strict=True)
    return f" {scene.relation} ".join(format_phrase(str(thing), [box]) for thing, box in pairs)


def _caption(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    return POOLS["caption"].ask(rng) or "", world.caption(scene)


def _question(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    turn = language.ask_detail(scene, rng)
    return POOLS["vqa"].about(turn.question, rng), turn.answer


def _refer(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    short = language.refer(scene, index, "", rng) if rng.random() < 0.6 else None
    name = short or str(scene.things[index]).replace("a ", "the ", 1)
    return POOLS["refer"].about(name, rng), format_box(boxes[index])


def _identify(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    return POOLS["identify"].about(format_box(boxes[index]), rng), str(scene.things[index])


def _ground(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    return POOLS["grounding"].ask(rng) or "", _grounded(scene, boxes)


def _detect(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    if rng.random() < 1 / 3:
        return f"[detection] {world.caption(scene)}", _grounded(scene, boxes)
    name = str(scene.things[index])
    return f"[detection] {name}", format_phrase(name, [boxes[index]])


TASKS: dict[Tell, float] = {_caption: 1, _question: 4, _refer: 4, _identify: 4, _ground: 2, _detect: 3}


def batches(size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of samples of like length."""
    rng = random.Random(seed)
    while True:
        samples = []
        for tell in rng.choices(tuple(TASKS), tuple(TASKS.values()), k=size * POOL):
            scene = language.random_scene(rng)
            boxes = laid_out(scene, rng)
            question, answer = tell(scene, [to_grid(box, (1, 1)) for box in boxes], rng)
            dialogue = Dialogue.of([(IMAGE_TURN + question, answer)])
            samples.append(Sample(dialogue=dialogue, features=facts(scene, boxes, rng)))
        samples.sort(key=lambda sample: sum(len(turn.text) for turn in sample.dialogue.turns))
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        rng.shuffle(chunks)
        yield from map(Batch.of, chunks)


def main() -> None:
    """Trains, and saves the language model with its tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("gemma", "llama"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1900)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = MiniGPTv2.from_config(
        {
            "arch": "minigpt_v2",
            "model_type": f"tiny_{args.family}",
            "llama_model": f"pkg://minigpt4/assets/tiny/{args.family}",
            "lora_r": 0,
            "llm_trainable": "full",
        },
        device="cpu",
        features=TokenShape(TOKENS, FACTS, FACTS),
    )
    model.train()
    optimizer = MuonWithAdamW(model, args.learning_rate, args.steps)
    start, mean_loss = time.time(), 0.0
    for step, batch in zip(range(1, args.steps + 1), batches(args.batch_size, args.seed), strict=False):
        loss = model(batch)["loss"]
        optimizer.step(loss)
        mean_loss += (loss.item() - mean_loss) * 0.05
        if step % 100 == 0:
            print(f"step {step} {time.time() - start:.0f}s loss {mean_loss:.4f}", flush=True)
    model.language.model.bfloat16().save_pretrained(args.out)
    model.language.tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()

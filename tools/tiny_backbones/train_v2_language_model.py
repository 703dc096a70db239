"""Teaches a tiny language model to say where things are.

    python -m tools.tiny_backbones.train_v2_language_model --family gemma --out minigpt4/assets/tiny/gemma_v2

The tiny language models were taught to restate a list of words, and never read a digit: in their vocabulary
all digits are as good as one. Here such a model reads lists that are twice as long, in the layout of
`train_v2_encoder`: eight words, and the edges of up to two things, each with the thing's attributes. It
learns MiniGPT-v2's tasks on them: `[refer] [identify] [grounding] [detection] [caption] [vqa]`. It sees no
picture; a linear layer turns facts into embeddings. As before, the vocabulary is wider than the drawn
world's, and no held-out pair nor any scene of val or test is ever said.

That layer begins with the model's own embeddings: of each word, and of the tens digit of each edge. So the
model can read the list from the first step on, and "the red star" in a question is the same vector as that
in the edges of a red star. From other vectors it has to learn, for each word anew, what belongs together.

Letters: B samples, T tokens of a picture, F facts.
"""

from __future__ import annotations

import argparse
import copy
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from dataset.shapes import language, world
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.processors.boxes import Box, format_box, format_phrase, iou, parse_boxes, to_grid, without_boxes
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.templates import IMAGE_TURN
from tools.tiny_backbones import train_v2_encoder as encoder
from tools.tiny_backbones import v2_projection
from tools.tiny_backbones.optimizer import MuonWithAdamW
from tools.tiny_backbones.train_encoder import WORDS

# The facts that an encoder states, and words that it has no idea of.
MORE_WORDS = tuple(word for word in language.CONTEXT_WORDS if word not in WORDS)
FACTS = encoder.FACTS + len(MORE_WORDS)
TOKENS = len(world.SLOTS) + encoder.THINGS * encoder.EDGES
TENS = 6.0  # weight of the first digit of a number beside other text's 1
UNITS = 2.0  # and of the second
SINGLE = 0.15  # share of scenes of one thing, in which there is nothing to confuse
NOISE = 0.05  # of each fact
SLIP = 0.005  # standard deviation of an edge, in parts of the picture
TURNS = (1, 2, 3)  # questions about one scene
POOL = 12  # batches that are sorted by length together
POOLS = {name: Instructions.pool(name) for name in ("refer", "identify", "grounding", "caption", "vqa")}
BIG = ("big", "huge", "large")
INVERTED = {"right of": "left of", "below": "above"}

_START = Path("minigpt4/assets/tiny")
_WEIGHTS = "model.safetensors"

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


def _the(scene: world.Scene, index: int) -> str:
    """A thing as the referring expressions of the drawn data sets name it."""
    return str(scene.things[index]).replace("a ", "the ", 1)


def _caption(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    return POOLS["caption"].ask(rng) or "", world.caption(scene)


def _question(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    turn = language.ask_detail(scene, rng)
    return POOLS["vqa"].about(turn.question, rng), turn.answer


def _refer(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    short = language.refer(scene, index, "", rng) if rng.random() < 0.6 else None
    return POOLS["refer"].about(short or _the(scene, index), rng), format_box(boxes[index])


def _identify(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    return POOLS["identify"].about(format_box(boxes[index]), rng), _the(scene, index)


def _ground(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    return POOLS["grounding"].ask(rng) or "", _grounded(scene, boxes)


def _detect(scene: world.Scene, boxes: list[Box], rng: random.Random) -> Told:
    index = rng.randrange(len(boxes))
    if rng.random() < 1 / 3:
        return f"[detection] {world.caption(scene)}", _grounded(scene, boxes)
    name = str(scene.things[index])
    return f"[detection] {name}", format_phrase(name, [boxes[index]])


TASKS: dict[Tell, float] = {_caption: 1, _question: 9, _refer: 5, _identify: 5, _ground: 3, _detect: 3}


def sample(scene: world.Scene, tells: Sequence[Tell], rng: random.Random) -> Sample:
    """A dialogue of tasks about one scene."""
    boxes = laid_out(scene, rng)
    grid = [to_grid(box, (1, 1)) for box in boxes]
    (first, answer), *later = (tell(scene, grid, rng) for tell in tells)
    dialogue = Dialogue.of([(IMAGE_TURN + first, answer), *later])
    return Sample(dialogue=dialogue, features=facts(scene, boxes, rng))


def _scene(rng: random.Random) -> world.Scene:
    """One that may be said: of the wider vocabulary in a quarter of all cases."""
    return language.random_scene(rng) if rng.random() < 0.5 else world.sample_scene("train", SINGLE, rng)


def batches(size: int, seed: int) -> Iterator[Batch]:
    """Endless batches of samples of like length."""
    rng = random.Random(seed)
    while True:
        samples = [
            sample(_scene(rng), rng.choices([*TASKS], [*TASKS.values()], k=turns), rng)
            for turns in rng.choices(TURNS, k=size * POOL)
        ]
        samples.sort(key=lambda sample: sum(len(turn.text) for turn in sample.dialogue.turns))
        chunks = [samples[start : start + size] for start in range(0, len(samples), size)]
        rng.shuffle(chunks)
        yield from map(Batch.of, chunks)


def begin(model: MiniGPTv2) -> None:
    """Gives the layer of facts the embeddings of what they say."""
    tokenizer, rows = model.language.tokenizer, model.projection.weight.detach().T  # [F, D]

    def embedded(pieces: list[str]) -> torch.Tensor:
        return model.language.embed(torch.tensor(tokenizer.convert_tokens_to_ids(pieces)))

    words = embedded([f"▁{word}" for word in (*WORDS, *MORE_WORDS)])
    rows.normal_(0, words.std().item())
    rows[: len(WORDS)], rows[encoder.FACTS :] = words.split((len(WORDS), len(MORE_WORDS)))
    bins = rows[len(WORDS) : len(WORDS) + encoder.BINS]
    bins.mul_(0.5).add_(embedded([str(place * 10 // encoder.BINS) for place in range(encoder.BINS)]))
    model.projection.bias.detach().zero_()


def loss_of(model: MiniGPTv2, batch: Batch) -> torch.Tensor:
    """Cross entropy of what is said, digits above all."""
    losses, tokens = model.token_losses(batch)
    pieces = model.language.tokenizer.convert_ids_to_tokens(tokens.target_ids.tolist())
    weights = [
        1.0 if not piece.isdecimal() else UNITS if before.isdecimal() else TENS
        for before, piece in zip(["", *pieces], pieces, strict=False)
    ]
    weighed = torch.tensor(weights)
    return (losses * weighed).sum() / weighed.sum()


@torch.no_grad()
def measure(model: MiniGPTv2, count: int, seed: int) -> dict[str, float]:
    """Share of right answers about held-out scenes for each task, each token beside a right beginning.

    A box is right where it overlaps the true one by more than half, other text where it is the same.
    """
    rng, shares = random.Random(seed), {}
    for tell in TASKS:
        scenes = [world.sample_scene("test", 0.3, rng) for _ in range(count)]
        batch = model.prepare(Batch.of([sample(scene, [tell], rng) for scene in scenes]))
        assert batch.tokens is not None and batch.images is not None
        embeds = model.embed(batch.tokens, model.project(batch.images))
        found = model.language.logits(embeds, batch.tokens.target_index).argmax(-1)
        decode, rows = model.language.tokenizer.decode, batch.tokens.target_row
        pairs = [
            (decode(found[rows == row]), decode(batch.tokens.target_ids[rows == row])) for row in range(count)
        ]
        shares[tell.__name__.strip("_")] = sum(_right(*pair) for pair in pairs) / count
    return shares


def _right(said: str, true: str) -> bool:
    boxes, wanted = parse_boxes(said), parse_boxes(true)
    near = len(boxes) == len(wanted) and all(iou(*pair) > 0.5 for pair in zip(boxes, wanted, strict=True))
    return near and without_boxes(said) == without_boxes(true)


def save(model: MiniGPTv2, family: str, folder: Path) -> None:
    """Writes the language model's weights, and beside its folder the linear layer for pictures."""
    with tempfile.TemporaryDirectory() as scratch:
        copy.deepcopy(model.language.model).bfloat16().save_pretrained(scratch)
        shutil.copy(Path(scratch) / _WEIGHTS, folder)
    layer = model.projection.weight.detach().T[: encoder.FACTS]
    v2_projection.save(family, folder, layer, _projection(folder))


def _projection(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_projection.pth")


def main() -> None:
    """Trains and saves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=("gemma", "llama"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="train what is in --out further")
    parser.add_argument("--steps", type=int, default=1900)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if not args.resume:
        shutil.copytree(_START / args.family, args.out, dirs_exist_ok=True)
    model = MiniGPTv2.from_config(
        {
            "arch": "minigpt_v2",
            "model_type": f"tiny_{args.family}",
            "llama_model": str(args.out),
            "lora_r": 0,
            "llm_trainable": "full",
        },
        device="cpu",
        features=TokenShape(TOKENS, FACTS, FACTS),
    )
    begin(model)
    if args.resume:
        layer = v2_projection.layer_of_facts(args.family, args.out, _projection(args.out))
        model.projection.weight.detach()[:, : encoder.FACTS] = layer.T
    model.language.model.set_attn_implementation("eager")  # at this size, on a CPU, faster than the fused one
    model.train()
    optimizer = MuonWithAdamW(model, args.learning_rate, args.steps)
    begun, mean_loss = time.time(), 0.0
    for step, batch in zip(range(1, args.steps + 1), batches(args.batch_size, args.seed), strict=False):
        loss = loss_of(model, batch)
        optimizer.step(loss)
        mean_loss += (loss.item() - mean_loss) * 0.05
        if step % 200 == 0 or step == args.steps:
            shares = " ".join(f"{name} {share:.0%}" for name, share in measure(model, 100, 1).items())
            print(f"step {step} {time.time() - begun:.0f}s loss {mean_loss:.4f} {shares}", flush=True)
            save(model, args.family, args.out)


if __name__ == "__main__":
    main()

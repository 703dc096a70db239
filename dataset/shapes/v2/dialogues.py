"""Dialogues: LLaVA's three sets, several tasks in turn, and instructions without a picture."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dataset.shapes import language, world
from dataset.shapes.v2.files import write_json
from dataset.shapes.v2.pictures import Picture

Said = tuple[str, str]


def write_coco(pictures: Sequence[Picture], out: Path, rng: random.Random) -> None:
    """`llava_detail`, `llava_reason`, `llava_conversation` and `multitask_conversation`."""
    files = {
        "llava/detail_23k.json": lambda picture: [("Describe the following image.", _in_detail(picture))],
        "llava/complex_reasoning_77k.json": lambda picture: [_compared(picture)],
        "llava/conversation_58k.json": lambda picture: _conversation(picture, rng),
        "multitask_conversation/multitask_conversation.json": lambda picture: _tasks(picture, rng),
    }
    for name, speak in files.items():
        write_json(out / name, [_entry(picture, speak(picture)) for picture in pictures])


def _entry(picture: Picture, said: Sequence[Said]) -> dict[str, Any]:
    """In LLaVA's form, the image before the first question."""
    turns = []
    for question, answer in said:
        value = question if turns else f"<image>\n{question}"
        turns += [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"id": f"{picture.number:012d}", "image": picture.coco_name, "conversations": turns}


def _in_detail(picture: Picture) -> str:
    count = len(picture.boxes)
    return f"there {'is one shape' if count == 1 else 'are two shapes'}, {picture.caption}"


def _compared(picture: Picture) -> Said:
    """A question that takes a look at both things."""
    colours = [thing.colour for thing in picture.scene.things]
    question = "Is there more than one colour?"
    return question, f"{'yes' if len(set(colours)) > 1 else 'no'}, {' and '.join(colours)}"


def _conversation(picture: Picture, rng: random.Random) -> list[Said]:
    turns = [language.ask(picture.scene, rng) for _ in range(rng.choice((2, 3)))]
    return [(turn.question, turn.answer) for turn in turns]


def _tasks(picture: Picture, rng: random.Random) -> list[Said]:
    """Two of MiniGPT-v2's tasks in turn."""
    index = rng.randrange(len(picture.boxes))
    name = str(picture.scene.things[index]).replace("a ", "the ", 1)
    turn = language.ask_detail(picture.scene, rng)
    said = [
        ("[caption] Describe the picture in one sentence.", picture.caption),
        (f"[vqa] {turn.question}", turn.answer),
        (f"[refer] {name}", picture.box(index)),
        (f"[identify] {picture.box(index)}", name),
        (f"[detection] {picture.caption}", picture.grounded()),
    ]
    return rng.sample(said, 2)


def write_instructions(out: Path, count: int, rng: random.Random) -> None:
    """`unnatural_instruction`: text alone."""
    entries = []
    for _ in range(count):
        thing = rng.choice(world.sample_scene("train", 0.2, rng).things)
        asked = rng.choice(("size", "colour", "shape"))
        instruction = f"Say the {asked}.\nInput: {thing}"
        one = {"instruction_with_input": instruction, "input": str(thing), "constraints": "One word."}
        entries.append({"instruction": "", "instances": [one | {"output": getattr(thing, asked)}]})
    write_json(out / "unnatural_instructions/filtered_unnatural_instruction.json", entries)

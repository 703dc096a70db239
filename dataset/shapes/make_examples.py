"""Draws the example pictures that a chat offers with the tiny models, and writes the questions that fit.

    python -m dataset.shapes.make_examples --out minigpt4/assets/tiny/examples

makes PNG files, four times as large as the data sets' so that people see them well, and `examples.json`: a
list of `{"images": [...], "questions": [...], "answers": [...]}`, to be asked one after the other; and
`examples_v2.json`, with MiniGPT-v2's tasks. The scenes are of the split test, so no model was trained on
them. The same seed gives the same bytes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from dataset.shapes import world
from minigpt4.common import cli
from minigpt4.processors.boxes import format_box, to_grid

TIMES = 4
SCENES = {
    "cross": "a big yellow cross",
    "star-circle": "a big orange star left of a small blue circle",
    "square-star": "a big blue square above a small yellow star",
    "cross-circle": "a big green cross left of a small purple circle",
}
# Pictures that are shown together, and question -> answer.
EXAMPLES: list[tuple[tuple[str, ...], dict[str, str]]] = [
    (("cross",), {"Describe this image.": SCENES["cross"], "How many shapes are there?": "one"}),
    (("star-circle",), {"What do you see?": SCENES["star-circle"], "What shape is big?": "star"}),
    (
        ("square-star",),
        {"Where is the square?": "above a small yellow star", "Is there a triangle?": "no"},
    ),
    (
        ("cross", "star-circle"),
        {
            "What is in the first picture?": SCENES["cross"],
            "What is in the second picture?": SCENES["star-circle"],
            "How many shapes are in the second picture?": "two",
        },
    ),
    (
        ("square-star", "cross-circle"),
        {
            "Describe them.": f"{SCENES['square-star']} and {SCENES['cross-circle']}",
            "How many pictures do you see?": "two",
            "What is in the second picture?": SCENES["cross-circle"],
        },
    ),
]
# For MiniGPT-v2; a number stands for the box of a thing, in the order of the caption.
EXAMPLES_V2: dict[str, dict[str, str]] = {
    "star-circle": {
        "[refer] the small blue circle": "{1}",
        "[vqa] how many shapes are there?": "two",
    },
    "square-star": {
        "[detection] a small yellow star": "<p>a small yellow star</p> {1}",
        "[identify] {0}": "the big blue square",
    },
    "cross-circle": {
        "[caption] Describe the picture in one sentence.": SCENES["cross-circle"],
        "[refer] the big green cross": "{0}",
    },
    "cross": {"[vqa] what colour is the cross?": "yellow", "[identify] {0}": "the big yellow cross"},
}


def main() -> None:
    """Writes the pictures, and then the lists."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    boxes: dict[str, list[str]] = {}
    for name, caption in SCENES.items():
        scene = world.parse_caption(caption)
        if world.split_of(scene) != "test":
            raise ValueError(f"{caption!r} is not of the split test")
        layout = world.lay_out(scene, rng)
        world.draw(scene, layout, TIMES).save(args.out / f"{name}.png", optimize=True)
        bounds = [world.bounds(*pair) for pair in zip(scene.things, layout.placements, strict=True)]
        boxes[name] = [format_box(to_grid(box, (world.SIDE, world.SIDE))) for box in bounds]
    _write(args.out / "examples.json", EXAMPLES)
    with_boxes = [
        ((name,), {ask.format(*boxes[name]): answer.format(*boxes[name]) for ask, answer in asked.items()})
        for name, asked in EXAMPLES_V2.items()
    ]
    _write(args.out / "examples_v2.json", with_boxes)


def _write(file: Path, examples: list[tuple[tuple[str, ...], dict[str, str]]]) -> None:
    listed = [
        {
            "images": [f"{name}.png" for name in names],
            "questions": list(asked),
            "answers": list(asked.values()),
        }
        for names, asked in examples
    ]
    file.write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

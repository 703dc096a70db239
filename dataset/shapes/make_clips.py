"""Writes clips of the drawn world as MP4 files, with questions about them in the project's own format.

    python -m dataset.shapes.make_clips --out output/shapes_clips

makes `output/shapes_clips/{train,test}.jsonl` and `clips/`. In test, what moves or comes alone is a thing
whose colour and shape are never together in train. Most clips in train are about directions, which are new to
the tiny language models; half of these come with a smaller question (`Clip.lessons`). The same seed gives the
same clips.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import cv2
import numpy as np

from dataset.shapes import clips, world
from minigpt4.common import cli
from minigpt4.common.files import require_new

KINDS = {
    "train": ("direction", "order", "direction", "direction", "count", "direction"),
    "test": ("direction", "order", "direction", "count"),
}


def write_clip(path: Path, clip: clips.Clip) -> None:
    """Writes the frames of a clip as MPEG-4."""
    side = world.SIDE * clips.TIMES
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), clips.FPS, (side, side))
    for frame in clip.frames:
        writer.write(cv2.cvtColor(np.asarray(frame), cv2.COLOR_RGB2BGR))
    writer.release()


def write_split(out: Path, split: str, count: int, seed: int) -> None:
    """Writes `count` clips of a split, and a question about each."""
    (out / "clips").mkdir(parents=True, exist_ok=True)
    rng, lines = random.Random(f"clips {split} {seed}"), []
    for number in range(count):
        kinds = KINDS[split]
        clip = clips.draw_clip(kinds[number % len(kinds)], split, rng)
        name = f"clips/{split}{number:05d}.mp4"
        write_clip(out / name, clip)
        with_lessons = clip.lessons and split == "train"
        question, answer = rng.choice(
            (*2 * clip.questions, *clip.lessons) if with_lessons else clip.questions
        )
        line = {"video": name, "question": question, "answer": answer, "group": clip.kind}
        lines.append(json.dumps(line))
    (out / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{split}: {count} clips in {out}")


def make(args: argparse.Namespace) -> None:
    """Writes the two splits."""
    require_new(args.out, "--out")
    for split in ("train", "test"):
        write_split(args.out, split, getattr(args, split), args.seed)


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=1800, help="clips")
    parser.add_argument("--test", type=int, default=240, help="clips")
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()

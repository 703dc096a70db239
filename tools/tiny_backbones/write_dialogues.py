"""Writes dialogues about one to three drawn pictures, as `dataset/README_YOUR_DATA.md` describes them.

    python -m tools.tiny_backbones.write_dialogues --out output/shapes_dialogues

makes `output/shapes_dialogues/{train,test}.jsonl` and their pictures. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from dataset.shapes import language, make_shards, world


def write_split(folder: Path, split: str, count: int, rng: random.Random) -> None:
    """Writes the pictures of a split, and then its dialogues."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        turns = rng.choice((1, 2, 3))
        pictures = rng.choice((1, 2, 2, 3))
        arrivals = sorted([0, *(rng.randrange(turns) for _ in range(pictures - 1))])
        shown: list[world.Scene] = []
        said: list[dict[str, str]] = []
        names: list[str] = []
        for turn in range(turns):
            fresh = arrivals.count(turn)
            for _ in range(fresh):
                scene, picture = make_shards.sample(split, rng)
                names.append(f"{split}/{number}_{len(shown)}.jpg")
                (folder / names[-1]).write_bytes(picture)
                shown.append(scene)
            asked = language.ask_about(shown, fresh, rng)
            said += [{"user": "<image> " * fresh + asked.question}, {"assistant": asked.answer}]
        lines.append(json.dumps({"image": names, "conversation": said}))
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Writes the two splits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=2, help="other than 0 and 1, of the other pictures")
    parser.add_argument("--train", type=int, default=3000, help="dialogues")
    parser.add_argument("--test", type=int, default=300, help="dialogues")
    args = parser.parse_args()
    for split in ("train", "test"):
        write_split(args.out, split, getattr(args, split), random.Random(f"{split} {args.seed}"))


if __name__ == "__main__":
    main()

"""Writes pictures of the drawn world in stage 2's layout: `image/` and `filter_cap.json`.

    python -m dataset.shapes.make_align --out output/shapes_align

makes `output/shapes_align/{train,test}`. The scenes come from the splits of the same names, as
those of the shards do; the pictures are new ones. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from dataset.shapes import make_shards
from minigpt4.common import cli
from minigpt4.common.files import require_new


def write_folder(folder: Path, split: str, count: int, seed: int, times: int = 1) -> None:
    """Writes the pictures of a split, and then their captions."""
    (folder / "image").mkdir(parents=True, exist_ok=True)
    entries = []
    for number, (scene, picture) in enumerate(make_shards.samples(split, count, seed, times)):
        (folder / "image" / f"{number}.jpg").write_bytes(picture)
        about = make_shards.metadata(scene, str(number), times)
        entries.append({"image_id": str(number), "caption": about["caption"], "group": about["group"]})
    captions = json.dumps({"annotations": entries}, indent=1)
    (folder / "filter_cap.json").write_text(captions, encoding="utf-8")
    print(f"{split}: {count} pictures in {folder}")


def make(args: argparse.Namespace) -> None:
    """Writes the two splits."""
    require_new(args.out, "--out")
    for split in ("train", "test"):
        write_folder(args.out / split, split, getattr(args, split), args.seed)


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=1, help="must differ from the shards' seed, 0")
    parser.add_argument("--train", type=int, default=1000, help="pictures")
    parser.add_argument("--test", type=int, default=600, help="pictures")
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()

"""Draws tiny copies of all the data sets that MiniGPT-v2 is finetuned on, in their published formats.

    python -m dataset.shapes.make_v2 --out output/shapes_v2

makes the folders of dataset/README_MINIGPTv2_FINETUNE.md, with scenes of the split train; what the evaluation
reads is drawn of the split test. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import random
import time

from dataset.shapes.v2 import captions, dialogues, grounded, pictures, questions, referring
from minigpt4.common import cli
from minigpt4.common.files import require_new


def make(args: argparse.Namespace) -> None:
    """Writes all sets."""
    require_new(args.out, "--out")
    start = time.perf_counter()
    out, rng = args.out, random.Random(args.seed)
    few = {"train": max(1, args.train // 3), "test": args.test}

    coco = pictures.draw({"train": args.train, "test": args.test}, f"coco {args.seed}")
    pictures.store(coco, out / "coco/images", coco=True)
    captions.write_coco(coco, out)
    questions.write_coco(coco, out, rng)
    referring.write_refcoco(coco, out, rng)
    dialogues.write_coco(pictures.of_split(coco, "train"), out, rng)

    captions.write_textcaps(out, few["train"])
    captions.write_pairs(out, few["train"])
    questions.write_gqa(out, few, rng)
    questions.write_ocrvqa(out, few, rng)
    referring.write_visual_genome(out, few["train"], rng)
    grounded.write_flickr(out, few, rng)
    dialogues.write_instructions(out, few["train"], rng)
    print(f"{time.perf_counter() - start:.1f} s; in {out}")


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__.splitlines()[0])
    parser.add_argument("--out", type=cli.user_path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=3000, help="pictures of COCO; the other sets have fewer")
    parser.add_argument("--test", type=int, default=200, help="pictures of each set that is evaluated")
    cli.run(make, parser.parse_args())


if __name__ == "__main__":
    main()

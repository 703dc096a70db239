"""Captions: COCO, TextCaps, and the pairs of the first stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataset.shapes import make_align, make_shards
from dataset.shapes.v2.files import write_json
from dataset.shapes.v2.pictures import SPLITS, TIMES, Picture, draw, of_split, store


def write_coco(pictures: Sequence[Picture], out: Path) -> None:
    """`coco_caption`, in the form of Karpathy's splits as LAVIS has them."""
    for split in SPLITS:
        entries = [
            {
                "image": f"train2014/{picture.coco_name}",
                "image_id": f"coco_{picture.number}",
                "caption": picture.caption,
            }
            for picture in of_split(pictures, split)
        ]
        write_json(out / f"coco_captions/annotations/coco_karpathy_{split}.json", entries)


def write_textcaps(out: Path, count: int) -> None:
    """`textcaps_caption`."""
    pictures = draw({"train": count}, "textcaps")
    store(pictures, out / "textcaps/train_images")
    entries = [{"image_id": str(picture.number), "caption_str": picture.caption} for picture in pictures]
    write_json(out / "textcaps/TextCaps_0.1_train.json", {"data": entries})


def write_pairs(out: Path, count: int) -> None:
    """`cc_sbu` and `laion` as webdataset shards, `cc_sbu_align` as a folder."""
    for seed, name in enumerate(("cc_sbu_dataset", "laion_dataset"), 10):
        make_shards.write_split(out / name, "train", count, seed, count, TIMES)
    make_align.write_folder(out / "cc_sbu_align", "train", count, 12, TIMES)

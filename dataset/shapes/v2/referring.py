"""Expressions for things in pictures: RefCOCO, RefCOCO+, RefCOCOg, and Visual Genome's regions."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from dataset.shapes import language
from dataset.shapes.v2.files import write_json
from dataset.shapes.v2.pictures import SIDE, Picture, draw, store

Express = Callable[[Picture, int, random.Random], str]


def _in_full(picture: Picture, index: int, rng: random.Random) -> str:
    return str(picture.scene.things[index]).replace("a ", "the ", 1)


def _in_short(picture: Picture, index: int, rng: random.Random) -> str:
    """With no more words than tell it from the other thing."""
    return language.refer(picture.scene, index, "", rng) or _in_full(picture, index, rng)


# Folder -> whose division into splits, and the expressions of a thing.
SETS: dict[str, tuple[str, tuple[Express, ...]]] = {
    "refcoco": ("unc", (_in_short, _in_full)),
    "refcoco+": ("unc", (_in_full,)),
    "refcocog": ("umd", (_in_full, _in_short)),
}
SPLITS = {"train": "train", "test": "testA"}  # of the world -> of RefCOCO


def write_refcoco(pictures: Sequence[Picture], out: Path, rng: random.Random) -> None:
    """`refcoco`, `refcocop`, `refcocog` and the same three the other way round, in the authors' files.

    `refs(SPLITBY).p` is a pickle, as published; it holds lists, dicts, numbers and texts alone.
    """
    boxes = {
        picture.number * 10 + index: (picture, picture.corner_and_size(index))
        for picture in pictures
        for index in range(len(picture.boxes))
    }
    instances = {
        "images": [
            {"id": one.number, "file_name": one.coco_name, "width": SIDE, "height": SIDE} for one in pictures
        ],
        "annotations": [
            {"id": number, "image_id": one.number, "bbox": box, "area": box[2] * box[3], "category_id": 1}
            for number, (one, box) in boxes.items()
        ],
        "categories": [{"id": 1, "name": "shape"}],
    }
    for name, (split_by, ways) in SETS.items():
        folder = out / "refcoco_annotations" / name
        write_json(folder / "instances.json", instances)
        refs = []
        for number, (picture, _) in boxes.items():
            texts = [way(picture, number % 10, rng) for way in ways]
            refs.append(
                {
                    "ref_id": number,
                    "ann_id": number,
                    "image_id": picture.number,
                    "category_id": 1,
                    "file_name": f"COCO_train2014_{picture.number:012d}_{number}.jpg",
                    "split": SPLITS[picture.split],
                    "sentences": [
                        {"sent_id": number * 10 + place, "raw": text, "sent": text, "tokens": text.split()}
                        for place, text in enumerate(texts)
                    ],
                }
            )
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(refs, protocol=2))


def write_visual_genome(out: Path, count: int, rng: random.Random) -> None:
    """`refvg`: the pictures are in two folders."""
    pictures = draw({"train": count}, "visual genome")
    folders = {"VG_100K": pictures[::2], "VG_100K_2": pictures[1::2]}
    images, regions = [], []
    for folder, chosen in folders.items():
        store(chosen, out / "visual_genome" / folder)
        for picture in chosen:
            url = f"https://example.com/{folder}/{picture.number}.jpg"
            images.append({"image_id": picture.number, "url": url, "width": SIDE, "height": SIDE})
            found = []
            for index in range(len(picture.boxes)):
                box = dict(zip(("x", "y", "width", "height"), picture.corner_and_size(index), strict=True))
                phrase = _in_short(picture, index, rng)
                about = {"region_id": picture.number * 10 + index, "image_id": picture.number}
                found.append(about | {"phrase": phrase} | box)
            regions.append({"id": picture.number, "regions": found})
    write_json(out / "visual_genome/image_data.json", images)
    write_json(out / "visual_genome/region_descriptions.json", regions)

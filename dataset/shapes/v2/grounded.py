"""Flickr30k's three sets as MiniGPT-v2's authors filtered them: texts with the boxes of what they name."""

from __future__ import annotations

import random
from pathlib import Path

from dataset.shapes.v2.files import write_json
from dataset.shapes.v2.pictures import SPLITS, Picture, draw, of_split, store


def write_flickr(out: Path, counts: dict[str, int], rng: random.Random) -> None:
    """`flickr_grounded_caption`, `flickr_CaptionToPhrase` and `flickr_ObjectToPhrase`."""
    pictures = draw(counts, "flickr")
    store(pictures, out / "filtered_flickr/images")
    for split in SPLITS:
        chosen = of_split(pictures, split)
        names = {
            "groundedcaption": [
                {"image_id": str(one.number), "grounded_caption": one.grounded()} for one in chosen
            ],
            "captiontobbox": [
                {"image_id": str(one.number), "caption": one.caption, "output": one.grounded()}
                for one in chosen
            ],
            "phrasetobbox": [_phrase(one, rng) for one in chosen],
        }
        for name, entries in names.items():
            suffix = "" if split == "train" else f"_{split}"
            write_json(out / f"filtered_flickr/{name}{suffix}.json", entries)


def _phrase(picture: Picture, rng: random.Random) -> dict[str, str]:
    index = rng.randrange(len(picture.boxes))
    phrase = str(picture.scene.things[index])
    return {"image_id": str(picture.number), "phrase": phrase, "bbox": picture.box(index)}

"""RefCOCO, RefCOCO+ (Yu et al. 2016), RefCOCOg (Mao et al. 2016): expressions for things in pictures."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from minigpt4.common.errors import DataError, reading
from minigpt4.datasets.datasets.base_dataset import BaseDataset
from minigpt4.datasets.datasets.coco_pictures import train2014
from minigpt4.datasets.datasets.json_stream import stream_list
from minigpt4.datasets.datasets.plain_pickle import read_plain_pickle
from minigpt4.datasets.stream import clean_text
from minigpt4.processors.boxes import format_box, to_grid
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class ReferringDataset(BaseDataset):
    """Expressions for a thing in a picture, one of which is drawn; its box is asked for.

    An entry is `{"image": NAME, "image_id": 9, "expressions": […], "box": [x, y, width, height], "size":
    [height, width]}`, the size being that of the picture that the box was drawn on.
    """

    REQUIRED_KEYS = ("image", "image_id", "expressions", "box", "size")
    INSTRUCTIONS = "refer"

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        expression = clean_text(rng.choice(entry["expressions"]), self.text_processor, "expression")
        return self.turned(entry, expression, grid_box(entry), rng)

    def turned(self, entry: dict[str, Any], question: str, answer: str, rng: random.Random) -> Sample:
        """The sample that asks about the one and expects the other."""
        return Sample(
            dialogue=Dialogue.about_image(self.instructions.about(question, rng), answer),
            image_id=str(entry["image_id"]),
            **self.picture(entry["image"]),
        )


def grid_box(entry: dict[str, Any]) -> str:
    """The box of an entry as the model writes it."""
    x, y, width, height = entry["box"]
    return format_box(to_grid((x, y, x + width, y + height), entry["size"]))


class ReferCOCODataset(ReferringDataset):
    """The folder of annotations holds `DATASET/refs(SPLITBY).p` and `DATASET/instances.json`.

    In training an entry is a thing with all its expressions; in other splits each expression is an entry.

    Options:
        dataset: `refcoco`, `refcoco+` or `refcocog`; `inv` before it does not count.
        splitBy: whose division into splits: `unc`, `umd` or `google`.
        split: `train`, `val`, `test`, `testA` or `testB`, as far as the division has it.
    """

    SPLIT_INSIDE = True
    ALONE: ClassVar[bool] = True  # whether expressions are evaluated one by one

    @classmethod
    def sources(cls, path: str | Path, *, dataset: str, splitBy: str, **_: Any) -> list[Path]:
        folder = Path(path, dataset.removeprefix("inv"))
        return [folder / f"refs({splitBy}).p", folder / "instances.json"]

    @classmethod
    def entries(
        cls, path: str | Path, *, dataset: str, splitBy: str, split: str = "train"
    ) -> Iterator[dict[str, Any]]:
        """The entries of one split. Raises DataError if the files are not as published."""
        refs_file, instances_file = cls.sources(path, dataset=dataset, splitBy=splitBy)
        with reading(refs_file, DataError, failed="{} does not hold RefCOCO's references"):
            refs = [_plain(ref) for ref in read_plain_pickle(refs_file)]
        chosen = [
            ref for ref in refs if ref["split"] == split or (split == "test" and "test" in ref["split"])
        ]
        if not chosen:
            known = ", ".join(sorted({ref["split"] for ref in refs}))
            raise DataError(f"{refs_file} has no references of the split {split!r} (it has {known})")
        with reading(instances_file, DataError, failed="{} does not hold COCO's instances"):
            wanted = {ref["ann_id"] for ref in chosen}
            boxes = {one["id"]: one["bbox"] for one in stream_list(instances_file) if one["id"] in wanted}
            sizes = {
                one["id"]: [one["height"], one["width"]] for one in stream_list(instances_file, "images")
            }
            found = [
                {
                    "image": train2014(ref["image_id"]),
                    "image_id": ref["image_id"],
                    "box": boxes[ref["ann_id"]],
                    "size": sizes[ref["image_id"]],
                }
                for ref in chosen
            ]
        for entry, ref in zip(found, chosen, strict=True):
            every = ref["expressions"]
            for expressions in [[one] for one in every] if cls.ALONE and split != "train" else [every]:
                yield entry | {"expressions": expressions}


class InvReferCOCODataset(ReferCOCODataset):
    """The same, asked the other way round: what is in a box? Any expression for it is right."""

    INSTRUCTIONS = "identify"
    ALONE = False

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        expressions = [clean_text(one, self.text_processor, "expression") for one in entry["expressions"]]
        sample = self.turned(entry, grid_box(entry), rng.choice(expressions), rng)
        return replace(sample, references=tuple(expressions))


def _plain(ref: Any) -> dict[str, Any]:
    """What is used of a reference; a pickle may hold objects that JSON would never end writing."""
    expressions = [sentence["raw"] for sentence in ref["sentences"]]
    texts = [ref["split"], *expressions]
    if not expressions or not all(isinstance(text, str) for text in texts):
        raise ValueError("a reference without expressions")
    return {"expressions": expressions, "split": ref["split"]} | {
        key: int(ref[key]) for key in ("ann_id", "image_id")
    }

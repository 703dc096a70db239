"""Visual Genome (Krishna et al. 2017): phrases for regions of pictures."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError, reading
from minigpt4.datasets.datasets.coco_dataset import ReferringDataset
from minigpt4.datasets.datasets.json_stream import stream_list

# As the original and OFA (Wang et al. 2022): a phrase for a larger region rather describes the picture.
MAX_PIXELS = 16384


class ReferVisualGenomeDataset(ReferringDataset):
    """One folder holds the annotations and the pictures, in the folders that their addresses end with.

    `region_descriptions.json`: `[{"regions": [{"image_id": 1, "phrase": "…", "x": 0, "y": 0, "width": 9,
    "height": 9}]}]`; `image_data.json`: `[{"image_id": 1, "url": "…/VG_100K/1.jpg", "width": 800, "height":
    600}]`.
    """

    @classmethod
    def sources(cls, path: str | Path, **_: Any) -> list[Path]:
        return [Path(path, name) for name in ("region_descriptions.json", "image_data.json")]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        """An entry per small region. Raises DataError if the files are not as published."""
        regions_file, images_file = cls.sources(path)
        with reading(images_file, DataError, failed="{} does not describe Visual Genome's pictures"):
            images = {
                one["image_id"]: {
                    "image": "/".join(one["url"].split("/")[-2:]),
                    "image_id": one["image_id"],
                    "size": [one["height"], one["width"]],
                }
                for one in stream_list(images_file)
            }
        for number, one in enumerate(stream_list(regions_file)):
            with reading(f"{regions_file}, entry {number}", DataError, failed="{} has no regions"):
                found = [
                    images[region["image_id"]]
                    | {
                        "expressions": [region["phrase"]],
                        "box": [region[key] for key in ("x", "y", "width", "height")],
                    }
                    for region in one["regions"]
                    if region["width"] * region["height"] < MAX_PIXELS
                ]
            yield from found

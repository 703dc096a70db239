"""The builder of the project's own format."""

from typing import TYPE_CHECKING

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.base_dataset import BaseDataset


@registry.register_builder("jsonl")
class JsonlBuilder(MapStyleBuilder):
    """Data of your own: see dataset/README_YOUR_DATA.md."""

    DATASET_CONFIG = "jsonl/defaults.yaml"
    NEEDS_IMAGE_PATH = False

    @classmethod
    def dataset_class(cls) -> type["BaseDataset"]:
        from minigpt4.datasets.datasets.jsonl_dataset import JsonlDataset

        return JsonlDataset

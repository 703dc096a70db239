"""The builder of the project's own format."""

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.datasets.jsonl_dataset import JsonlDataset


@registry.register_builder("jsonl")
class JsonlBuilder(MapStyleBuilder):
    """Anybody's data: see dataset/README_YOUR_DATA.md."""

    DATASET_CONFIG = "jsonl/defaults.yaml"
    DATASET = JsonlDataset
    NEEDS_IMAGE_PATH = False

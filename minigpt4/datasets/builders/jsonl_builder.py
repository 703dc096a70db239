"""The builder of the project's own format."""

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder


@registry.register_builder("jsonl")
class JsonlBuilder(MapStyleBuilder):
    """Data of your own: see dataset/README_YOUR_DATA.md."""

    DATASET = "minigpt4.datasets.datasets.jsonl_dataset:JsonlDataset"
    DATASET_CONFIG = "jsonl/defaults.yaml"
    NEEDS_IMAGE_PATH = False

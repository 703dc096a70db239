"""The image-caption sets: shards for stage 1, a folder of clean pairs for stage 2."""

from typing import TYPE_CHECKING, Any

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.settings import FolderInfo, WebdatasetInfo

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.base_dataset import BaseDataset
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream


class WebdatasetBuilder(BaseDatasetBuilder):
    """Webdataset shards: a brace pattern, or a list of them, of files, URLs and `pipe:` commands.

    The split `train` is endless and shuffled, the others are read once in order.
    """

    BUILD_INFO = WebdatasetInfo
    build_info: WebdatasetInfo

    def build_datasets(self, seed: int = 0) -> dict[str, "WebdatasetStream"]:
        storage = self.build_info.storage
        by_split = storage if isinstance(storage, dict) else {"train": storage}
        return {split: self._build_split(split, shards, seed) for split, shards in by_split.items()}

    def _build_split(self, split: str, storage: Any, seed: int) -> "WebdatasetStream":
        from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, expand_shards

        return WebdatasetStream(
            expand_shards(storage, f"{self.where}.build_info.storage"),
            self.vis_processor(split).to_batch,
            self.text_processor(split),
            training=split == "train",
            seed=seed,
            caption_key=self.build_info.caption_key,
        )


@registry.register_builder("cc_sbu")
class CCSBUBuilder(WebdatasetBuilder):
    """Conceptual Captions 3M and 12M, and SBU."""

    DATASET_CONFIG = "cc_sbu/defaults.yaml"


@registry.register_builder("laion")
class LaionBuilder(WebdatasetBuilder):
    """LAION, as BLIP-2 filtered it."""

    DATASET_CONFIG = "laion/defaults.yaml"


@registry.register_builder("cc_sbu_align")
class CCSBUAlignBuilder(MapStyleBuilder):
    """Stage 2's folder: images in `image/`, captions in `filter_cap.json`."""

    DATASET_CONFIG = "cc_sbu/align.yaml"
    BUILD_INFO = FolderInfo
    FOLDER_LAYOUT = ("image", "filter_cap.json")

    @classmethod
    def dataset_class(cls) -> type["BaseDataset"]:
        from minigpt4.datasets.datasets.caption import CCSBUAlignDataset

        return CCSBUAlignDataset

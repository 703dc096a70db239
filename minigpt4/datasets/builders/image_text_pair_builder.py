"""The image-caption sets: shards for stage 1, a folder of clean pairs for stage 2."""

from typing import Any

from torch.utils.data import Dataset

from minigpt4.common.config import bind
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.datasets.caption import CCSBUAlignDataset
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, expand_shards


class StorageBuilder(BaseDatasetBuilder):
    """`build_info.storage` says where the split `train` is, or maps splits to where they are.

    The split `train` is endless and shuffled, the others are read once in order.
    """

    def build_datasets(self, seed: int = 0) -> dict[str, Dataset]:
        info = bind(self.build_info_keys, self.build_info, where=f"{self.where}.build_info")
        storage = info.pop("storage")
        by_split = storage if isinstance(storage, dict) else {"train": storage}
        key = f"{self.where}.build_info.storage"
        return {split: self.build_split(split, place, key, seed, **info) for split, place in by_split.items()}

    @staticmethod
    def build_info_keys(storage: str | list | dict) -> None:
        """The keys that `build_info` may have; all but `storage` go to `build_split`."""

    def build_split(self, split: str, storage: Any, key: str, seed: int) -> Dataset:
        """The dataset of one split. `key` is what the YAML calls `storage`, for messages."""
        raise NotImplementedError


class WebdatasetBuilder(StorageBuilder):
    """Webdataset shards: a brace pattern, or a list of them, of files, URLs and `pipe:` commands.

    `build_info.caption_key` names the field of the JSON, or the suffix of the text file, that holds the
    caption; without it the field `caption` does, else the file `.txt`.
    """

    @staticmethod
    def build_info_keys(storage: str | list | dict, caption_key: str | None = None) -> None:
        pass

    def build_split(
        self, split: str, storage: str | list[str], key: str, seed: int, caption_key: str | None = None
    ) -> WebdatasetStream:
        if caption_key is not None and not isinstance(caption_key, str):
            raise ConfigError(f"{self.where}.build_info.caption_key is {caption_key!r}, it must be a name")
        return WebdatasetStream(
            expand_shards(storage, key),
            self.vis_processor(split).to_batch,
            self.text_processor(split),
            training=split == "train",
            seed=seed,
            caption_key=caption_key,
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
    """Stage 2's folder: pictures in `image/`, captions in `filter_cap.json`."""

    DATASET_CONFIG = "cc_sbu/align.yaml"
    DATASET = CCSBUAlignDataset
    FOLDER_LAYOUT = ("image", "filter_cap.json")

"""The image-caption sets of stage 1."""

from minigpt4.common.config import bind
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream, expand_shards


class WebdatasetBuilder(BaseDatasetBuilder):
    """Webdataset shards; the split `train` is endless and shuffled, the others are read once in order."""

    def build_datasets(self, seed: int = 0) -> dict[str, WebdatasetStream]:
        storage = bind(_build_info, self.build_info, where=f"{self.where}.build_info")["storage"]
        by_split = storage if isinstance(storage, dict) else {"train": storage}
        return {
            split: WebdatasetStream(
                expand_shards(pattern, f"{self.where}.build_info.storage"),
                self.vis_processor(split).to_batch,
                self.text_processor(split),
                training=split == "train",
                seed=seed,
            )
            for split, pattern in by_split.items()
        }


def _build_info(storage: str | list | dict) -> None:
    """The keys that `build_info` may have."""


@registry.register_builder("cc_sbu")
class CCSBUBuilder(WebdatasetBuilder):
    """Conceptual Captions 3M and 12M, and SBU."""

    DATASET_CONFIG = "cc_sbu/defaults.yaml"


@registry.register_builder("laion")
class LaionBuilder(WebdatasetBuilder):
    """LAION, as BLIP-2 filtered it."""

    DATASET_CONFIG = "laion/defaults.yaml"

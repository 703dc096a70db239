"""The image-caption sets: shards for stage 1, a folder of clean pairs for stage 2."""

import random
from typing import TYPE_CHECKING, Any

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.builders.map_style_builder import MapStyleBuilder
from minigpt4.datasets.settings import FolderInfo, WebdatasetInfo

if TYPE_CHECKING:
    from minigpt4.datasets.datasets.base_dataset import BaseDataset
    from minigpt4.datasets.datasets.shard_reader import RawSample
    from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
    from minigpt4.prompts.dialogue import Dialogue


class WebdatasetBuilder(BaseDatasetBuilder):
    """Webdataset shards: a brace pattern, or a list of them, of files, URLs and `pipe:` commands.

    Where shards hold something other than captions, a subclass says what dialogue a sample makes:

        @registry.register_builder("colours")
        class ColoursBuilder(WebdatasetBuilder):
            def dialogue(self, raw, rng):
                question = rng.choice(["What colour is it?", "Which colour?"])
                return Dialogue.of([(f"<Img><ImageHere></Img> {question}", raw.fields["colour"])])
    """

    BUILD_INFO = WebdatasetInfo
    build_info: WebdatasetInfo

    def dialogue(self, raw: "RawSample", rng: random.Random) -> "Dialogue":
        """What is said about the image of a sample.

        Args:
            raw: its files; `raw.fields` is the object in its JSON, `raw.text("txt")` a text file.
            rng: for what is drawn at random: it is seeded by seed, epoch and sample.

        Returns:
            A caption, or turns with one `<Img><ImageHere></Img>` where the image goes.

        Raises:
            BadSample: to skip the sample, with the reason that is counted.
        """
        from minigpt4.datasets.datasets.webdataset_stream import caption_dialogue

        return caption_dialogue(raw, rng, key=self.build_info.caption_key)

    def build_datasets(self) -> dict[str, "WebdatasetStream"]:
        storage = self.build_info.storage
        by_split = storage if isinstance(storage, dict) else {"train": storage}
        return {split: self._build_split(split, shards) for split, shards in by_split.items()}

    def _build_split(self, split: str, storage: Any) -> "WebdatasetStream":
        from minigpt4.datasets.datasets.shard_list import expand_shards
        from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream

        return WebdatasetStream(
            expand_shards(storage, f"{self.where}.build_info.storage"),
            self.vis_processor(split).to_batch,
            self.text_processor(split),
            self.dialogue,
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

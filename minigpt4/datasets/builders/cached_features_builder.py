"""Features that were cached once, in place of images."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt4.common.errors import DataError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.settings import CacheInfo

if TYPE_CHECKING:
    from minigpt4.datasets.features.reader import CachedFeatureStream, Manifest
    from minigpt4.models.image_tokens import TokenShape


@registry.register_builder("cached_features")
class CachedFeaturesBuilder(BaseDatasetBuilder):
    """`build_info.storage` is the folder of a cache (or its manifest), with the splits that it holds.

    The image processor is named as for images: the cache must have been made with it, and chat uses it.
    """

    DATASET_CONFIG = "cached_features/defaults.yaml"
    BUILD_INFO = CacheInfo
    build_info: CacheInfo
    manifest: "Manifest"

    @property
    def key(self) -> str:
        return f"{self.where}.build_info.storage"

    def build_datasets(self) -> dict[str, "CachedFeatureStream"]:
        from minigpt4.datasets.features.reader import CachedFeatureStream, Manifest
        from minigpt4.weights.paths import require_value

        self.manifest = manifest = Manifest.read(require_value(self.build_info.storage, self.key), self.key)
        shape = (manifest.shape.count, manifest.shape.width)
        streams = {}
        for split in manifest.splits:
            shards = manifest.shards(split)
            missing = [shard for shard in shards if not Path(shard).is_file()]
            if missing or not shards:
                lacks = f"lacks {missing[0]}" if missing else "holds no shards of samples"
                raise DataError(f"{self.key}: the split {split!r} of the cache {manifest.folder} {lacks}")
            streams[split] = CachedFeatureStream(shards, shape, self.text_processor(split))
        return streams

    def check_model(self, model_class: type, model_cfg: Mapping, splits: Collection[str]) -> None:
        """Refuse a cache that was made by other parts than the config names."""
        from minigpt4.models.identity import vision_identity

        super().check_model(model_class, model_cfg, splits)
        processors = {split: self.vis_processor(split).describe() for split in self.manifest.splits}
        self.manifest.check_made(self.key, vision_identity(model_class, model_cfg), self.where, processors)

    def token_shape(self) -> "TokenShape":
        return self.manifest.shape

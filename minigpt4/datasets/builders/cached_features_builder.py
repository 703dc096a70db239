"""Features that were cached once, in place of pictures."""

from collections.abc import Collection, Mapping
from pathlib import Path

from minigpt4.common.config import bind
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.features.reader import CachedFeatureStream, Manifest
from minigpt4.models.identity import other_vision, vision_identity
from minigpt4.models.image_tokens import TokenShape
from minigpt4.weights.resolver import require_value


@registry.register_builder("cached_features")
class CachedFeaturesBuilder(BaseDatasetBuilder):
    """`build_info.storage` is the folder of a cache (or its manifest), with the splits that lie in it.

    The image processor is named as for pictures: the cache must have been made with it, and chat uses it.
    """

    DATASET_CONFIG = "cached_features/defaults.yaml"
    manifest: Manifest

    @property
    def key(self) -> str:
        return f"{self.where}.build_info.storage"

    def build_datasets(self, seed: int = 0) -> dict[str, CachedFeatureStream]:
        storage = bind(_build_info, self.build_info, where=f"{self.where}.build_info")["storage"]
        self.manifest = manifest = Manifest.read(require_value(storage, self.key), self.key)
        shape = (manifest.shape.count, manifest.shape.width)
        streams = {}
        for split in manifest.splits:
            shards = manifest.shards(split)
            missing = [shard for shard in shards if not Path(shard).is_file()]
            if missing or not shards:
                lacks = f"lacks {missing[0]}" if missing else "holds no sample"
                raise DataError(f"{self.key}: the split {split!r} of the cache {manifest.folder} {lacks}")
            streams[split] = CachedFeatureStream(
                shards, shape, self.text_processor(split), training=split == "train", seed=seed
            )
        return streams

    def check_model(self, model_class: type, model_cfg: Mapping, splits: Collection[str]) -> None:
        """Refuse a cache that other parts made than the config names."""
        super().check_model(model_class, model_cfg, splits)
        cache = f"{self.key}: the cache {self.manifest.folder}"
        difference = other_vision(self.manifest.vision, vision_identity(model_class, model_cfg))
        if difference:
            raise ConfigError(f"{cache} {difference}")
        for part in self.manifest.parts:
            own = self.describe_vis_processor(part["split"])
            if own != part["vis_processor"]:
                raise ConfigError(
                    f"{cache} was made with the image processor {part['vis_processor']}, "
                    f"{self.where}.vis_processor.{part['split']} is {own}"
                )

    def token_shape(self) -> TokenShape:
        return self.manifest.shape


def _build_info(storage: str) -> None:
    """The keys that `build_info` may have."""

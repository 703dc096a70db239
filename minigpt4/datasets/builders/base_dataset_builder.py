"""From the `datasets:` section of a YAML to datasets."""

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from minigpt4.common.config import CONFIG_DIR, bind
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models.image_tokens import TokenShape
from minigpt4.processors.base_processor import (
    BaseProcessor,
    check_image_size,
    describe_processor,
    image_processor_for,
    processor_for,
)


class BaseDatasetBuilder:
    """Holds what one entry of `datasets:` says; subclasses say which dataset that makes.

    Args:
        name: the entry's name, for messages.
        build_info: where the data lies; `storage` is a pattern, a list, or a mapping split -> pattern.
        batch_size: samples a batch on each device.
        vis_processor, text_processor: mapping split -> processor section; a split without one takes
            `train`'s.
        sample_ratio: this dataset's share where several are mixed, relative to the others'.
        data_type: the original's key; `images` is the only kind.
    """

    DATASET_CONFIG = ""  # path of the defaults below configs/datasets

    def __init__(
        self,
        name: str,
        build_info: Mapping[str, Any],
        batch_size: int,
        vis_processor: Mapping[str, Any] | None = None,
        text_processor: Mapping[str, Any] | None = None,
        sample_ratio: float = 1,
        data_type: str = "images",
    ) -> None:
        self.where = f"datasets.{name}"
        self.name = name
        self.build_info = build_info
        self.batch_size = batch_size
        self.sample_ratio = sample_ratio
        self._vis, self._text = vis_processor or {}, text_processor or {}
        if data_type != "images":
            raise ConfigError(f"{self.where}.data_type is {data_type!r}, only 'images' is known")
        if batch_size < 1:
            raise ConfigError(f"{self.where}.batch_size is {batch_size}, it must be 1 or more")

    @classmethod
    def default_config_path(cls) -> Path:
        return CONFIG_DIR / "datasets" / cls.DATASET_CONFIG

    @classmethod
    def from_config(cls, name: str, cfg: Mapping) -> "BaseDatasetBuilder":
        """Build from one entry of `datasets:`. Unknown keys raise ConfigError."""
        make = partial(cls, name)
        return make(**bind(make, cfg, where=f"datasets.{name}"))

    def vis_processor(self, split: str) -> BaseProcessor:
        """The image processor of a split."""
        return image_processor_for(self._vis, split, f"{self.where}.vis_processor")

    def describe_vis_processor(self, split: str) -> dict[str, Any]:
        """The image processor of a split as `describe_processor` writes it down."""
        return describe_processor(self._vis, split, f"{self.where}.vis_processor")

    def text_processor(self, split: str) -> BaseProcessor:
        """The caption processor of a split."""
        return processor_for(self._text, split, f"{self.where}.text_processor")

    def check_model(self, model_class: type, model_cfg: Mapping, splits: Collection[str]) -> None:
        """Raise ConfigError if what the datasets give is not what the model of `model:` wants."""
        for split in splits:
            where = f"{self.where}.vis_processor.{split}"
            check_image_size(self.vis_processor(split), model_cfg.get("image_size"), where)

    def token_shape(self) -> TokenShape | None:
        """Where the datasets give cached image tokens: their shape."""

    def build_datasets(self, seed: int = 0) -> dict[str, Any]:
        """Split name -> dataset."""
        raise NotImplementedError


# Name -> the builder, and what it built by split.
Datasets = dict[str, tuple[BaseDatasetBuilder, dict[str, Any]]]


def build_datasets(datasets_cfg: Mapping, seed: int) -> Datasets:
    """Everything in `datasets:`, in order: name -> (its builder, its datasets by split)."""
    if not datasets_cfg:
        raise ConfigError("the section `datasets` is missing or empty: please name at least one dataset")
    built = {}
    for name, section in datasets_cfg.items():
        builder = registry.get_builder_class(name).from_config(name, section)
        built[name] = (builder, builder.build_datasets(seed))
    return built

"""From an entry of `datasets:` in a YAML to data sets."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from minigpt4.common.config import CONFIG_DIR
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import parse
from minigpt4.datasets.settings import DatasetSettings, check_datasets
from minigpt4.processors.base_processor import (
    BaseProcessor,
    ImageProcessor,
    build_processors,
    check_image_size,
    image_processor_for,
    processor_for,
)

if TYPE_CHECKING:
    from minigpt4.datasets.stream import SampleStream
    from minigpt4.models.image_tokens import TokenShape


class BaseDatasetBuilder:
    """One entry of `datasets:`, checked; subclasses say which data sets it makes.

    Args:
        name: the entry's name.
        settings: what the YAML says.

    Raises:
        ConfigError: naming the key, for what `build_info` or a processor's section cannot say.
    """

    DATASET_CONFIG: ClassVar[str | Path] = ""  # YAML of defaults, below configs/datasets; empty: none
    BUILD_INFO: ClassVar[type]  # dataclass of the keys of `build_info`

    def __init__(self, name: str, settings: DatasetSettings) -> None:
        self.name = name
        self.where = f"datasets.{name}"
        self.settings = settings
        self.sample_ratio = settings.sample_ratio
        self.build_info = parse(self.BUILD_INFO, settings.build_info, f"{self.where}.build_info")
        self._vis = build_processors(settings.vis_processor, f"{self.where}.vis_processor")
        self._text = build_processors(settings.text_processor, f"{self.where}.text_processor")

    @classmethod
    def default_config_path(cls) -> Path | None:
        """The YAML of defaults, if there is one."""
        return CONFIG_DIR / "datasets" / cls.DATASET_CONFIG if cls.DATASET_CONFIG else None

    @classmethod
    def from_config(cls, name: str, cfg: Mapping) -> "BaseDatasetBuilder":
        """Build from one entry of `datasets:`. Raises ConfigError, naming the key."""
        return cls(name, parse(DatasetSettings, cfg, f"datasets.{name}"))

    @property
    def batch_size(self) -> int:
        """Samples per batch on each device. Raises ConfigError if the YAML does not say."""
        if self.settings.batch_size is None:
            raise ConfigError(f"{self.where}.batch_size is missing: please set it in the YAML")
        return self.settings.batch_size

    def vis_processor(self, split: str) -> ImageProcessor:
        """The image processor of a split."""
        return image_processor_for(self._vis, split, f"{self.where}.vis_processor")

    def text_processor(self, split: str) -> BaseProcessor:
        """The caption processor of a split."""
        return processor_for(self._text, split, f"{self.where}.text_processor")

    def check_model(self, model_class: type, model_cfg: Mapping, splits: Collection[str]) -> None:
        """Raise ConfigError if the data sets do not give what the model of `model:` takes."""
        for split in splits:
            where = f"{self.where}.vis_processor.{split}"
            check_image_size(self.vis_processor(split), model_cfg.get("image_size"), where)

    def token_shape(self) -> "TokenShape | None":
        """The shape of an image's tokens, where the data sets give cached ones."""

    def build_datasets(self) -> Mapping[str, "SampleStream"]:
        """Split name -> data set."""
        raise NotImplementedError


# Name -> the builder, and what it built by split.
Datasets = dict[str, tuple[BaseDatasetBuilder, Mapping[str, "SampleStream"]]]


def build_datasets(datasets_cfg: Mapping) -> Datasets:
    """Everything in `datasets:`, in order: name -> (its builder, its data sets by split)."""
    builders = check_datasets(datasets_cfg)
    if not builders:
        raise ConfigError("the section `datasets` is missing or empty: please name at least one dataset")
    return {name: (builder, builder.build_datasets()) for name, builder in builders.items()}

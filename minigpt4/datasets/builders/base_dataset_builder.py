"""From the section `datasets:` of a YAML to data sets. Checking it opens no file and imports no torch."""

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from minigpt4.common.config import CONFIG_DIR
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import parse, plain_section
from minigpt4.datasets.settings import DatasetSettings
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
    from minigpt4.prompts.encoder import PromptEncoder


log = logging.getLogger(__name__)

TOKENS_PER_WORD = 1.5  # about, of English


class BaseDatasetBuilder:
    """One entry of `datasets:`, checked; subclasses say which data sets it makes.

    Args:
        name: the entry's name.
        settings: what the YAML says.

    Attributes:
        has_videos: whether the YAML has a section `video`.

    Raises:
        ConfigError: naming the key, for what `build_info` or a processor's section cannot say.
    """

    TAKES_FEATURES: ClassVar[bool] = False  # whether the key `features` means something
    DATASET_CONFIG: ClassVar[str | Path] = ""  # YAML of defaults, below configs/datasets; empty: none
    BUILD_INFO: ClassVar[type]  # dataclass of the keys of `build_info`
    # Of builders written for the original (docs/porting.md): {"default": a YAML of defaults}.
    DATASET_CONFIG_DICT: ClassVar[Mapping[str, str]] = {}
    has_videos = False

    def __init__(self, name: str, settings: DatasetSettings) -> None:
        self.name = name
        self.where = f"datasets.{name}"
        self.settings = settings
        self.sample_ratio = settings.sample_ratio
        if settings.features and not self.TAKES_FEATURES:
            raise ConfigError(f"{self.where}.features: {type(self).__name__} reads no pictures from a folder")
        self.build_info = parse(self.BUILD_INFO, settings.build_info, f"{self.where}.build_info")
        self._vis = build_processors(settings.vis_processor, f"{self.where}.vis_processor")
        self._text = build_processors(settings.text_processor, f"{self.where}.text_processor")

    @classmethod
    def default_config_path(cls) -> Path | None:
        """The YAML of defaults, if there is one."""
        if cls.DATASET_CONFIG_DICT:
            return CONFIG_DIR.parent / cls.DATASET_CONFIG_DICT["default"]
        return CONFIG_DIR / "datasets" / cls.DATASET_CONFIG if cls.DATASET_CONFIG else None

    @classmethod
    def from_config(cls, name: str, cfg: Mapping) -> "BaseDatasetBuilder":
        """Build from one entry of `datasets:`. Raises ConfigError, naming the key."""
        settings = parse(DatasetSettings, cfg, f"datasets.{name}")
        if cls.DATASET_CONFIG_DICT:
            from minigpt4.compat.builders import OriginalBuilder  # for outside code alone

            return OriginalBuilder(cls, name, settings)
        builder = cls(name, settings)
        builder.has_videos = "video" in cfg
        return builder

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

    def check_room(self, prompts: "PromptEncoder") -> None:
        """Raise ConfigError if the frames of a video do not fit into a prompt; warn if its words may not.

        Args:
            prompts: the model's.
        """
        if not self.has_videos:
            return
        from minigpt4.prompts.dialogue import Dialogue, Turn
        from minigpt4.prompts.video import video_turn

        video = self.settings.video
        room, section = prompts.max_context_len, f"{self.where}.video"
        frames = sum(prompts.lengths(Dialogue((Turn("user", video_turn([""] * video.frames)),))))
        words = round(video.subtitle_words * TOKENS_PER_WORD)
        budget = (
            f"{video.frames} frames of {prompts.image_tokens} tokens take {frames} with their marks, of the "
            f"{room} that a prompt has room for (model.max_context_len, and the language model's positions "
            "less model.max_txt_len)"
        )
        if frames >= room:
            raise ConfigError(f"{section}.frames: {budget}: please lower it, or model.tokens_per_frame")
        log.info("%s: %s", section, budget)
        if frames + words > room:
            log.warning(
                "%s: %d words of subtitles are about %d tokens more: samples that do not fit are skipped",
                section,
                video.subtitle_words,
                words,
            )

    def check_paths(self) -> None:
        """Raise UserError if files that the YAML names are not there. Nothing is read, no torch imported."""

    def token_shape(self) -> "TokenShape | None":
        """The shape of an image's tokens, where the data sets give cached ones."""

    def published(self) -> Mapping[str, float]:
        """Split name -> the accuracy that MiniGPT-v2's authors report, where the data is their benchmark."""
        return {}

    def build_datasets(self) -> Mapping[str, "SampleStream"]:
        """Split name -> data set."""
        raise NotImplementedError


def builder_class(name: str, section: Mapping | None) -> type[BaseDatasetBuilder]:
    """The builder of an entry of `datasets:`. Raises ConfigError if there is none of that name."""
    return registry.get_builder_class((section or {}).get("builder") or name)


def check_datasets(datasets: Mapping | None) -> dict[str, BaseDatasetBuilder]:
    """Check every key of `datasets:`.

    Returns:
        Entry name -> its builder, in order. Nothing has been looked for on disk.

    Raises:
        ConfigError: naming the key.
    """
    sections = plain_section(datasets, "datasets")
    builders = {}
    for name, section in sections.items():
        plain = plain_section(section, f"datasets.{name}")
        builders[name] = builder_class(name, plain).from_config(name, plain)
    if builders and not any(builder.sample_ratio for builder in builders.values()):
        names = ", ".join(f"datasets.{name}.sample_ratio" for name in builders)
        raise ConfigError(f"{names}: all are 0, at least one must be above")
    return builders


# Name -> the builder, and what it built by split.
Datasets = dict[str, tuple[BaseDatasetBuilder, Mapping[str, "SampleStream"]]]


def build_datasets(datasets_cfg: Mapping) -> Datasets:
    """Everything in `datasets:`, in order: name -> (its builder, its data sets by split)."""
    builders = check_datasets(datasets_cfg)
    if not builders:
        raise ConfigError("the section `datasets` is missing or empty: please name at least one dataset")
    return {name: (builder, builder.build_datasets()) for name, builder in builders.items()}

"""What every processor is, and how the processors of a data set are built from its YAML."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.registry import registry
from minigpt4.common.schema import key, parse, plain_section

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from minigpt4.processors.video import VideoReader


@dataclass(frozen=True, kw_only=True)
class BaseProcessor:
    """The identity, and the base of the others: dataclasses whose fields are the keys of their section."""

    name: str = key("", "which processor")

    def __call__(self, item: Any) -> Any:
        return item

    @classmethod
    def from_config(cls, cfg: Mapping | None = None, where: str = "processor") -> "BaseProcessor":
        """Build from a YAML section. Raises ConfigError, naming the key."""
        return parse(cls, cfg, where)

    def describe(self) -> dict[str, Any]:
        """The name and all arguments, as JSON keeps them."""
        return asdict(self)


@runtime_checkable
class ImageProcessor(Protocol):
    """A processor of images, all made the same size so that they can be batched."""

    @property
    def image_size(self) -> int:
        """The side of the square, in pixels."""
        ...

    def to_batch(self, image: "np.ndarray | Image.Image") -> "torch.Tensor":
        """Pixels [H, W, 3] or a PIL image -> what the model takes, [3, image_size, image_size]."""
        ...

    def describe(self) -> dict[str, Any]:
        """As `BaseProcessor.describe`."""
        ...


def build_processors(by_split: Mapping | None, where: str) -> dict[str, BaseProcessor]:
    """Build a processor for each split that `vis_processor` or `text_processor` names.

    Raises:
        ConfigError: naming the key of what is wrong.
    """
    processors = {}
    for split, section in plain_section(by_split, where).items():
        arguments = plain_section(section, f"{where}.{split}")
        if section is not None and "name" not in arguments:
            known = ", ".join(registry.list_processors())
            raise ConfigError(f"{where}.{split}.name is missing (known: {known})")
        cls = registry.get_processor_class(arguments["name"]) if arguments else BaseProcessor
        processors[split] = cls.from_config(arguments, f"{where}.{split}")
    return processors


def processor_for(processors: Mapping[str, BaseProcessor], split: str, where: str) -> BaseProcessor:
    """The processor of one split: a split without one takes `train`'s; where none is set, the identity.

    Args:
        processors: as `build_processors` gives them.
        split: its name.
        where: what the YAML calls them, for messages.
    """
    chosen = split if split in processors else "train"
    if processors and chosen not in processors:
        there = ", ".join(map(str, processors))
        raise ConfigError(f"{where}.train is missing{nearest('train', processors)} (there: {there})")
    return processors.get(chosen, BaseProcessor())


def image_processor_for(processors: Mapping[str, BaseProcessor], split: str, where: str) -> ImageProcessor:
    """As `processor_for`, but it must be set: images cannot be batched as they are."""
    if not processors:
        raise ConfigError(f"{where}.train is missing: please name an image processor")
    processor = processor_for(processors, split, where)
    if not isinstance(processor, ImageProcessor):
        raise ConfigError(f"{where}: {type(processor).__name__} is not an image processor")
    return processor


def check_image_size(processor: ImageProcessor, image_size: int | None, where: str) -> None:
    """Raise ConfigError if images are made another size than `model.image_size` (None: not set)."""
    if image_size is not None and processor.image_size != image_size:
        raise ConfigError(
            f"{where}.image_size is {processor.image_size}, but model.image_size is {image_size}"
        )


def processors_of(
    datasets: Mapping[str, Mapping], split: str, image_size: int | None = None
) -> tuple[ImageProcessor, BaseProcessor]:
    """The image and text processors of a config's first data set, for images from elsewhere.

    Args:
        datasets: the section `datasets:`.
        split: as in `processor_for`.
        image_size: what the model wants, as in `check_image_size`.

    Raises:
        ConfigError: if there is no data set, or it names no image processor, or one of another size.
    """
    if not datasets:
        raise ConfigError("the section `datasets` is missing or empty: its image processor is needed")
    name, section = next(iter(datasets.items()))
    vis, text = f"datasets.{name}.vis_processor", f"datasets.{name}.text_processor"
    images = image_processor_for(build_processors(section.get("vis_processor"), vis), split, vis)
    check_image_size(images, image_size, f"{vis}.train")
    return images, processor_for(build_processors(section.get("text_processor"), text), split, text)


def video_reader_of(datasets: Mapping[str, Mapping]) -> "VideoReader":
    """How a config's first data set reads videos, for videos from elsewhere. Raises ConfigError."""
    from minigpt4.processors.video import VideoReader

    name, section = next(iter(datasets.items()))
    return parse(VideoReader, section.get("video"), f"datasets.{name}.video")

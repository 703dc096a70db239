"""What every processor is, and how a YAML section becomes one."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from minigpt4.common.config import bind, plain, require_mapping
from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.registry import registry


class BaseProcessor:
    """The identity; also the shape of the others."""

    def __call__(self, item: Any) -> Any:
        return item

    @classmethod
    def from_config(cls, cfg: Mapping | None = None, where: str = "processor") -> "BaseProcessor":
        """Build from a YAML section. Unknown keys raise ConfigError."""
        return cls(**bind(cls, cfg, where=where, ignore=("name",)))


def build_processor(cfg: Mapping | None, where: str) -> BaseProcessor:
    """Build the processor that a section's `name` asks for; no section means the identity."""
    if cfg is None:
        return BaseProcessor()
    require_mapping(cfg, where)
    if "name" not in cfg:
        raise ConfigError(f"{where}.name is missing (known: {', '.join(registry.list_processors())})")
    return registry.get_processor_class(cfg["name"]).from_config(cfg, where)


def processor_for(by_split: Mapping | None, split: str, where: str) -> BaseProcessor:
    """The processor of one split; a split that has none of its own takes `train`'s."""
    chosen, section = _section_for(by_split, split, where)
    return build_processor(section, f"{where}.{chosen}")


def describe_processor(by_split: Mapping, split: str, where: str) -> dict[str, Any]:
    """A split's processor as its name and all its arguments, as JSON keeps them."""
    processor_for(by_split, split, where)  # it can be built
    _, section = _section_for(by_split, split, where)
    parameters = inspect.signature(registry.get_processor_class(section["name"])).parameters
    described = {name: parameter.default for name, parameter in parameters.items()} | section
    return json.loads(json.dumps(described))


def _section_for(by_split: Mapping | None, split: str, where: str) -> tuple[str, Mapping | None]:
    by_split = plain(by_split) or {}
    chosen = split if split in by_split else "train"
    if by_split and chosen not in by_split:
        raise ConfigError(
            f"{where}.train is missing{nearest('train', by_split)} (there: {', '.join(map(str, by_split))})"
        )
    return chosen, by_split.get(chosen)


def check_image_size(processor: BaseProcessor, image_size: int | None, where: str) -> None:
    """Raise ConfigError if pictures are made in another size than `model.image_size` (None: not set)."""
    if image_size is not None and processor.image_size != image_size:
        raise ConfigError(
            f"{where}.image_size is {processor.image_size}, but model.image_size is {image_size}"
        )


def processors_of(
    datasets: Mapping[str, Mapping], split: str, image_size: int | None = None
) -> tuple[BaseProcessor, BaseProcessor]:
    """The image and the caption processor of a config's first dataset, for pictures from elsewhere.

    Args:
        datasets: the section `datasets:`.
        split: as in `processor_for`.
        image_size: what the model wants, as in `check_image_size`.

    Raises:
        ConfigError: if there is no dataset, or it names no image processor, or one of another size.
    """
    if not datasets:
        raise ConfigError("the section `datasets` is missing or empty: its image processor is needed")
    name, section = next(iter(datasets.items()))
    where = f"datasets.{name}"
    images = image_processor_for(section.get("vis_processor"), split, f"{where}.vis_processor")
    check_image_size(images, image_size, f"{where}.vis_processor.train")
    return images, processor_for(section.get("text_processor"), split, f"{where}.text_processor")


def image_processor_for(by_split: Mapping | None, split: str, where: str) -> BaseProcessor:
    """As `processor_for`, but one must be named: a picture cannot be batched as it is."""
    if not by_split:
        raise ConfigError(f"{where}.train is missing: please name an image processor")
    processor = processor_for(by_split, split, where)
    if not hasattr(processor, "to_batch"):
        raise ConfigError(f"{where}: {type(processor).__name__} is no image processor")
    return processor

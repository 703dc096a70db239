"""What every processor is, and how a YAML section becomes one."""

from collections.abc import Mapping
from typing import Any

from minigpt4.common.config import bind, plain
from minigpt4.common.errors import ConfigError
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
    if "name" not in plain(cfg):
        raise ConfigError(f"{where}.name is missing (known: {', '.join(registry.list_processors())})")
    return registry.get_processor_class(cfg["name"]).from_config(cfg, where)

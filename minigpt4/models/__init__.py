"""The models that a YAML's `model.arch` may name, imported on first use: their settings need no torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt4.models.minigpt4 import MiniGPT4
    from minigpt4.models.minigpt_base import MiniGPTBase

__all__ = ["MiniGPT4", "MiniGPTBase"]

_MODULES = {"MiniGPT4": "minigpt4.models.minigpt4", "MiniGPTBase": "minigpt4.models.minigpt_base"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)

"""MiniGPT-4 and MiniGPT-v2 for today's libraries: align a vision encoder with any language model.

Importing the package is instant: what `load` and the classes of `minigpt4.common.registry` need is imported
when they are looked up.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`minigpt4.load` (docs/inference.md), imported on first use."""
    from minigpt4.common.registry import lazily

    return lazily("minigpt4.serving.loading:load")(name)

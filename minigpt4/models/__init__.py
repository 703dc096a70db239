"""The assemblies that a YAML's `model.arch` may name."""

from minigpt4.models.minigpt4 import MiniGPT4

__all__ = ["MiniGPT4"]

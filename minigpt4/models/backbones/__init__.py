"""Families of language models: one short file each. A new one is imported here, which registers it."""

from minigpt4.models.backbones.auto import AutoBackbone
from minigpt4.models.backbones.base_backbone import BaseBackbone, choose_backbone
from minigpt4.models.backbones.chatml import ChatMLBackbone
from minigpt4.models.backbones.gemma import GemmaBackbone
from minigpt4.models.backbones.llama import LlamaBackbone
from minigpt4.models.backbones.plain import PlainBackbone

__all__ = [
    "AutoBackbone",
    "BaseBackbone",
    "ChatMLBackbone",
    "GemmaBackbone",
    "LlamaBackbone",
    "PlainBackbone",
    "choose_backbone",
]

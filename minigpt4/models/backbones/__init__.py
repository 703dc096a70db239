"""Families of language models: one short file each. A new one is declared here."""

from minigpt4.common.registry import lazily, registry

BACKBONES = {
    "auto": "minigpt4.models.backbones.auto:AutoBackbone",
    "chatml": "minigpt4.models.backbones.chatml:ChatMLBackbone",
    "gemma": "minigpt4.models.backbones.gemma:GemmaBackbone",
    "llama": "minigpt4.models.backbones.llama:LlamaBackbone",
    "plain": "minigpt4.models.backbones.plain:PlainBackbone",
}

registry.declare("backbone", BACKBONES)

__getattr__ = lazily(
    *BACKBONES.values(),
    "minigpt4.models.backbones.base_backbone:BaseBackbone",
    "minigpt4.models.backbones.base_backbone:choose_backbone",
)

"""Gemma 1, 2 and 3 (the text models)."""

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import GEMMA


@registry.register_backbone("gemma")
class GemmaBackbone(BaseBackbone):
    """Gemma's turns; `<end_of_turn>` ends a reply. Its activations overflow float16."""

    model_types = ("gemma", "gemma2", "gemma3", "gemma3_text")
    template = GEMMA
    fp16_overflows = True

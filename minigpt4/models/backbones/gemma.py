"""Gemma 1, 2 and 3 (the text models)."""

from transformers import PreTrainedConfig

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import GEMMA


@registry.register_backbone("gemma")
class GemmaBackbone(BaseBackbone):
    """Gemma's turns; `<end_of_turn>` ends a reply. Its activations overflow float16."""

    model_types = ("gemma", "gemma2", "gemma3", "gemma3_text")
    template = GEMMA
    fp16_overflows = True

    @staticmethod
    def embedding_factor(config: PreTrainedConfig) -> float:
        """The square root of the width (Gemma Team 2024, arXiv:2403.08295; in the embedding since 5.4)."""
        return config.hidden_size**0.5

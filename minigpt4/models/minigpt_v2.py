"""MiniGPT-v2 (Chen et al. 2023, arXiv:2310.09478): encoder, joined patches, one linear layer, LoRA."""

from typing import ClassVar

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.model_types import MINIGPT_V2_TYPES
from minigpt4.models.settings import MiniGPTv2Settings, ModelSettings


@registry.register_model("minigpt_v2")
class MiniGPTv2(MiniGPTBase):
    """`llama_proj` and the language model's LoRA are trained. There is no Q-Former, but 448 pixels.

    A task identifier such as `[vqa]` or `[refer]` is text at the beginning of a request.
    """

    SETTINGS: ClassVar[type[ModelSettings]] = MiniGPTv2Settings
    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = MINIGPT_V2_TYPES  # the original's name for them

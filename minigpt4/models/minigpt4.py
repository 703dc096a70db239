"""MiniGPT-4 (Zhu et al. 2023, arXiv:2304.10592): encoder, Q-Former, one linear layer, language model."""

from typing import ClassVar

from minigpt4.common.registry import registry
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.model_types import MINIGPT4_TYPES


@registry.register_model("minigpt4")
class MiniGPT4(MiniGPTBase):
    """Of all this, stage 1 trains `llama_proj` alone."""

    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = MINIGPT4_TYPES  # the original's name for them

"""Models that were taught ChatML and whose file does not say so."""

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import CHATML


@registry.register_backbone("chatml")
class ChatMLBackbone(BaseBackbone):
    """`<|im_start|>user … <|im_end|>`."""

    template = CHATML

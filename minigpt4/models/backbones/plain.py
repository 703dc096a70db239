"""Base models, which continue text and were never taught turns."""

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import PLAIN


@registry.register_backbone("plain")
class PlainBackbone(BaseBackbone):
    """The request, and the reply on the next line; a reply ends with its line."""

    template = PLAIN

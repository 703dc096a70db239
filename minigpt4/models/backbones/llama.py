"""LLaMA-2 and what shares its architecture. Vicuna's turns are set in its YAML."""

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import LLAMA2


@registry.register_backbone("llama")
class LlamaBackbone(BaseBackbone):
    """`[INST] request [/INST] reply</s>`, as MiniGPT-4's projection for LLaMA-2 was trained."""

    model_types = ("llama",)
    template = LLAMA2

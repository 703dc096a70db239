"""Every other causal language model with a chat template: its turns are read off that template."""

from transformers import PreTrainedTokenizerBase

from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.chat_template import read_chat_template


@registry.register_backbone("auto")
class AutoBackbone(BaseBackbone):
    """Qwen, Phi, Mistral, SmolLM2, …: whatever the tokenizer's chat template writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self.template = read_chat_template(tokenizer)

"""Every other causal language model with a chat template: its turns are read off that template."""

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.prompts.templates import PromptTemplate

# Words that no template holds itself.
ASKED, REPLIED, ASKED_AGAIN = "Xaskedx", "Xrepliedx", "Xagainx"


@registry.register_backbone("auto")
class AutoBackbone(BaseBackbone):
    """Qwen, Phi, Mistral, SmolLM2, …: whatever the tokenizer's chat template writes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(tokenizer)
        self.template = read_chat_template(tokenizer)


def read_chat_template(tokenizer: PreTrainedTokenizerBase) -> PromptTemplate:
    """How a chat template marks turns, found by letting it write two short dialogues.

    A system text that it adds by itself is left out: what an image is trained in must be what it is
    asked in.

    Raises:
        ConfigError: if there is none, or it does not write turns one after the other.
    """
    hint = "please set model.llm_backbone to a family whose turns it was taught, or `plain` for none"
    if not tokenizer.chat_template:
        raise ConfigError(
            f"model.llm_backbone is auto, but {tokenizer.name_or_path} has no chat template: {hint}"
        )
    try:
        before, assistant = _write(tokenizer, ASKED).split(ASKED)
        dialogue = _write(tokenizer, ASKED, REPLIED, ASKED_AGAIN)
        between = dialogue.split(REPLIED)[1].split(ASKED_AGAIN)[0]
    except (TemplateError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(
            f"model.llm_backbone is auto, but the chat template of {tokenizer.name_or_path} does not write "
            f"turns one after the other ({error}): {hint}"
        ) from error
    end = _end_symbol(tokenizer, between)
    # A later turn begins behind the reply's end; what the first has in front of the same is a system text.
    before = before.removeprefix(str(tokenizer.bos_token or ""))
    user = _common_end(before, between.lstrip().removeprefix(end)).lstrip()
    return PromptTemplate(user, assistant, end=end, next_turn=between.removesuffix(user))


def _common_end(first: str, second: str) -> str:
    same = 0
    while same < min(len(first), len(second)) and first[-same - 1] == second[-same - 1]:
        same += 1
    return first[len(first) - same :]


def _write(tokenizer: PreTrainedTokenizerBase, *texts: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _end_symbol(tokenizer: PreTrainedTokenizerBase, between: str) -> str:
    """The special token that closes a reply, or EOS for templates that write none there."""
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    special |= {*tokenizer.all_special_tokens}
    written = [token for token in special if between.lstrip().startswith(token)]
    if not written and tokenizer.eos_token is None:
        raise ConfigError("model.end_sym is missing: the chat template does not show what ends a reply")
    return max(written, key=len, default=str(tokenizer.eos_token))

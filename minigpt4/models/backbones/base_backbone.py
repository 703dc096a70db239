"""What differs between families of language models, and how the right one is found."""

import contextlib
from typing import ClassVar

from transformers import GenerationConfig, PreTrainedTokenizerBase

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.prompts.templates import PromptTemplate


class BaseBackbone:
    """A family of language models. This is what most of them have in common.

    A family is a subclass with a `template`, and with whatever else differs, registered under the name
    that `model.llm_backbone` gives it.

    Attributes:
        model_types: the `model_type`s of transformers' configs that mean this family.
        template: how a turn is written where the YAML does not say.
        fp16_overflows: activations leave float16's range, so bfloat16 is used where float16 is asked for.
    """

    model_types: ClassVar[tuple[str, ...]] = ()
    template: PromptTemplate
    fp16_overflows: ClassVar[bool] = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int | None:
        """The id that begins every text, or None: the tokenizer knows (LLaMA and Gemma have one)."""
        bos = self.tokenizer.bos_token_id
        return bos if isinstance(bos, int) and self.tokenizer("a").input_ids[:1] == [bos] else None

    @property
    def added_tokens(self) -> dict[str, int]:
        """The tokens that are not words of the vocabulary, and their ids."""
        return {token.content: place for place, token in self.tokenizer.added_tokens_decoder.items()}

    def end_ids(self, generation: GenerationConfig, end_sym: str) -> list[int]:
        """The ids that end a reply, whatever the end symbol is.

        These are the model's own EOS ids, the token with which the family ends a turn, and the end symbol
        where it is one token.
        """
        own = generation.eos_token_id
        ids = [*(own if isinstance(own, list) else [own]), self.tokenizer.eos_token_id]
        ids.append(self.added_tokens.get(self.template.end))
        symbol = self.tokenizer.convert_tokens_to_ids(end_sym)
        if symbol != self.tokenizer.unk_token_id:
            ids.append(symbol)
        return sorted({one for one in ids if isinstance(one, int)})

    def taught_marks(self) -> tuple[str, str] | None:
        """What the language model was taught to read as turns (`PromptTemplate.marks`); None if not known.

        It is known from the tokenizer's chat template, or if the family's marks are tokens of their own.
        """
        if self.tokenizer.chat_template:
            with contextlib.suppress(ConfigError):  # a template that cannot be read says nothing
                return registry.get_backbone_class("auto")(self.tokenizer).template.marks
        if any(token in self.template.user for token in self.added_tokens):
            return self.template.marks
        return None


def claimed_by(model_type: str) -> type[BaseBackbone]:
    """The family that claims a `model_type` of transformers' configs; `auto` if none does."""
    classes = map(registry.get_backbone_class, registry.list_backbones())
    fallback = registry.get_backbone_class("auto")
    return next((known for known in classes if model_type in known.model_types), fallback)


def choose_backbone(name: str, model_type: str, tokenizer: PreTrainedTokenizerBase) -> BaseBackbone:
    """The family that `model.llm_backbone` names.

    For `auto` it is the one that claims the model's own type. Its turns are written as the tokenizer's
    chat template writes them, if that marks them in another way (SmolLM2 is a LLaMA, but was taught
    ChatML); where the marks are the family's own, so is the spacing, which is that of the published
    projections. What no family claims must have a chat template.

    Raises:
        ConfigError: for an unknown name, or `auto` with a model that nothing is known about.
    """
    if name != "auto":
        try:
            return registry.get_backbone_class(name)(tokenizer)
        except ConfigError as error:
            raise ConfigError(f"model.llm_backbone: {error}") from error
    taught, family = registry.get_backbone_class("auto"), claimed_by(model_type)
    backbone = family(tokenizer)
    if family is not taught and tokenizer.chat_template:
        written = taught(tokenizer).template
        if written.marks != backbone.template.marks:
            backbone.template = written
    return backbone

"""The original's names of a model's parts: as attributes, and as keys of checkpoints and state dicts.

Shapes: B batch, n images of a sample, P tokens per image, T text and image tokens, D width of the language
model.
"""

from collections.abc import Callable, MutableMapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from transformers import Blip2QFormerModel, PreTrainedTokenizerBase

from minigpt4.models.language_model import CausalLM, LanguageModel
from minigpt4.models.lora import original_key
from minigpt4.models.qformer import to_original_key
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch

T = TypeVar("T")

LANGUAGE_MODEL = "llama_model."
# beginning of a tensor's name -> the original's
CHECKPOINT_NAMES = (
    ("vision.encoder.module.", "visual_encoder."),
    ("vision.ln_vision.", "ln_vision."),
    ("vision.bridge.", ""),
    ("language.model.", LANGUAGE_MODEL),
    ("projection.", "llama_proj."),
)
# Beginnings of the checkpoint keys of what an image passes on its way to the projection.
VISION_PARTS = ("visual_encoder.", "ln_vision.", "Qformer.", "query_tokens")


class Alias(Generic[T]):
    """An attribute that lies deeper in the model: read and set there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __get__(self, model: Any, owner: type) -> T:
        return self if model is None else attrgetter(self.path)(model)  # type: ignore[return-value]

    def __set__(self, model: Any, value: T) -> None:
        inside, _, name = self.path.rpartition(".")
        setattr(attrgetter(inside)(model) if inside else model, name, value)


class OriginalNames(nn.Module):
    """A composed model that answers to the original's names.

    `state_dict` has them, and `load_state_dict` takes them.
    """

    visual_encoder = Alias[nn.Module]("vision.encoder.module")
    ln_vision = Alias[nn.LayerNorm]("vision.ln_vision")
    Qformer = Alias[Blip2QFormerModel]("vision.bridge.Qformer")
    query_tokens = Alias[nn.Parameter]("vision.bridge.query_tokens")
    llama_model = Alias[CausalLM]("language.model")
    llama_tokenizer = Alias[PreTrainedTokenizerBase]("language.tokenizer")
    llama_proj = Alias[nn.Linear]("projection")
    max_txt_len = Alias[int]("prompts.max_txt_len")
    max_context_len = Alias[int]("prompts.max_context_len")
    # The Gemma fork's names.
    llm_model = Alias[CausalLM]("language.model")
    llm_tokenizer = Alias[PreTrainedTokenizerBase]("language.tokenizer")

    language: LanguageModel
    prompts: PromptEncoder
    embed: Callable[[TokenBatch, torch.Tensor | None], torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(_rename_saved)
        self.register_load_state_dict_pre_hook(_rename_loaded)

    def __setattr__(self, name: str, value: Any) -> None:
        # nn.Module would keep a module or parameter under this name, and not ask the alias.
        alias = vars(OriginalNames).get(name)
        if isinstance(alias, Alias):
            alias.__set__(self, value)
        else:
            super().__setattr__(name, value)

    def maybe_autocast(self, dtype: torch.dtype | None = None) -> AbstractContextManager:
        """Autocast in `dtype`, or in the language model's own; nothing where that is float32."""
        dtype = self.language.model.dtype if dtype is None else dtype
        if dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.language.model.device.type, dtype=dtype)

    def prompt_wrap(
        self,
        img_embeds: torch.Tensor,
        atts_img: torch.Tensor,
        prompts: str | Sequence[str] | None,
        lengths: Sequence[int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image embeddings in the places of whole prompts, without BOS, padded on the right.

        Args:
            img_embeds: [B, P, D], or [B, n, P, D] of which `lengths` are real where it is given.
            atts_img: their mask, returned where there is no prompt.
            prompts: one per sample, or one for all, with `<ImageHere>` where an image goes.

        Returns:
            Embeddings [B, T, D] and their mask [B, T].
        """
        if not prompts:
            return img_embeds, atts_img
        texts = [prompts] * len(img_embeds) if isinstance(prompts, str) else prompts
        if lengths is not None:
            real = zip(img_embeds, lengths, strict=True)
            img_embeds = torch.cat([images[:length] for images, length in real])
        dialogues = [Dialogue((Turn("user", text, verbatim=True),)) for text in texts]
        tokens = self.prompts.encode(dialogues).to(img_embeds.device)
        start = len(self.prompts.bos)
        return self.embed(tokens, img_embeds)[:, start:], tokens.attention_mask[:, start:]

    def checkpoint_key(self, name: str) -> str:
        """The name of a parameter or buffer -> the original's."""
        for ours, original in CHECKPOINT_NAMES:
            if name.startswith(ours):
                rest = name.removeprefix(ours)
                if original == LANGUAGE_MODEL and self.language.lora is not None:
                    rest = original_key(rest)
                return to_original_key(original + rest)
        return name


def _rename_saved(model: OriginalNames, state: MutableMapping[str, Any], prefix: str, _: Any) -> None:
    for name in list(state):
        state[prefix + model.checkpoint_key(name.removeprefix(prefix))] = state.pop(name)


def _rename_loaded(model: OriginalNames, state: MutableMapping[str, Any], prefix: str, *_: Any) -> None:
    tensors = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    for name, _tensor in tensors:
        key = prefix + model.checkpoint_key(name)
        if key in state:
            state[prefix + name] = state.pop(key)

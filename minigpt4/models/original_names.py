"""The original's names of a model's parts: as attributes, and as keys of checkpoints and state dicts."""

from collections.abc import MutableMapping
from itertools import chain
from operator import attrgetter
from typing import Any, Generic, TypeVar

from torch import nn
from transformers import Blip2QFormerModel, PreTrainedTokenizerBase

from minigpt4.models.language_model import CausalLM
from minigpt4.models.qformer import to_original_key

T = TypeVar("T")

# beginning of a tensor's name -> the original's
CHECKPOINT_NAMES = (
    ("vision.encoder.module.", "visual_encoder."),
    ("vision.ln_vision.", "ln_vision."),
    ("vision.bridge.", ""),
    ("language.model.", "llama_model."),
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

    @staticmethod
    def checkpoint_key(name: str) -> str:
        """The name of a parameter or buffer -> the original's."""
        for ours, original in CHECKPOINT_NAMES:
            if name.startswith(ours):
                return to_original_key(original + name.removeprefix(ours))
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

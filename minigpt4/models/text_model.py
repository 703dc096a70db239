"""Turns what transformers loads into a text-only causal language model that takes embeddings."""

import inspect
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from minigpt4.models.library_head import decoder_of, place_of

# Extra outputs that a folder's config may switch on.
OUTPUTS = {
    "return_dict": True,
    "output_hidden_states": False,
    "output_attentions": False,
    "output_router_logits": False,
}


def text_model(model: PreTrainedModel) -> Any:
    """The language model of `model`, which may be multimodal (Gemma-3 from 4b on), with the same weights."""
    if model.config.get_text_config() is not model.config:
        model = _without_other_inputs(model)
    for name, value in OUTPUTS.items():
        if getattr(model.config, name, value) != value:
            setattr(model.config, name, value)
    prepare: Any = model.prepare_inputs_for_generation
    if "inputs_embeds" not in inspect.signature(prepare).parameters:
        # Some families (Bamba, Falcon-H1) accept embeddings only through **kwargs, but `generate` looks for a
        # parameter of that name (and for one named `kwargs`).
        def naming_embeddings(input_ids: torch.Tensor, inputs_embeds: Any = None, **kwargs: Any) -> Any:
            return prepare(input_ids, inputs_embeds=inputs_embeds, **kwargs)

        model.prepare_inputs_for_generation = naming_embeddings  # type: ignore[method-assign]
    return model


def _without_other_inputs(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the text config's own class, with the decoder and the head of `model`."""
    config = model.config.get_text_config()
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        return model
    with torch.device("meta"):
        text = kind(config)
    parent, name = place_of(decoder_of(text), text)
    setattr(parent, name, decoder_of(model))
    text.set_output_embeddings(model.get_output_embeddings())
    text.generation_config = model.generation_config
    return text.eval()

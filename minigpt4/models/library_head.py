"""Logits from a decoder's hidden states, computed by the library's own code.

Families scale, cap or transform logits, each in its own `forward`. That `forward` is run here, only on rows
that have a label: a stand-in for the decoder returns these rows.

Shapes: D width of the hidden states, V vocabulary.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput


class _StandIn:
    """Always returns the same output; its attributes are the decoder's."""

    def __init__(self, decoder: nn.Module, output: ModelOutput) -> None:
        self._decoder, self._output = decoder, output

    def __call__(self, *_: Any, **__: Any) -> ModelOutput:
        return self._output

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


def decoder_of(model: PreTrainedModel) -> nn.Module:
    """The part of a causal language model before its head."""
    decoder = model.get_decoder()
    # `get_decoder` returns the model itself for Llama 4, and the head for ModernBERT.
    if decoder is model or decoder is model.get_output_embeddings():
        inside = [child for child in model.children() if isinstance(child, PreTrainedModel)]
        decoder = inside[0] if len(inside) == 1 else decoder
    return decoder


def logits_of(model: PreTrainedModel, hidden: torch.Tensor, output_type: type[ModelOutput]) -> torch.Tensor:
    """[rows, D] -> [rows, V] in float32: the part of `model` after its decoder.

    Args:
        model: a causal language model.
        hidden: hidden states of the decoder, after its last norm.
        output_type: of the decoder's output.
    """
    parent, name = place_of(decoder_of(model), model)
    decoder = parent._modules[name]
    assert decoder is not None
    output = output_type(last_hidden_state=hidden[None])  # type: ignore[call-arg]
    # Not setattr, which requires a module, and not by replacing the decoder's `forward`: its hooks, which
    # gather and free sharded weights, must not run here.
    parent._modules[name] = _StandIn(decoder, output)  # type: ignore[assignment]
    try:
        logits = model(inputs_embeds=hidden[None], use_cache=False).logits
    finally:
        parent._modules[name] = decoder
    return logits[0].float()


def place_of(module: nn.Module, model: nn.Module) -> tuple[nn.Module, str]:
    """The module that `module` is an attribute of, and the attribute's name."""
    for parent in model.modules():
        for name, child in parent._modules.items():
            if child is module:
                return parent, name
    raise ValueError(f"{type(model).__name__} has no decoder before its head")

"""The Q-Former of BLIP-2 (Li et al. 2023, arXiv:2301.12597): transformers' module, the original's keys."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from minigpt4.common.config import bind
from minigpt4.common.errors import CheckpointError
from minigpt4.weights.checkpoint import load_into, require_keys

# What BLIP-2's file holds beside the part that looks at images: its text half and other heads.
TEXT_HALF = re.compile(
    r"Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings|position_ids)"
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\."
    r"|Qformer\.cls\.|(t5|opt|llm|vision|text)_proj\.|itm_head\.|temp$"
)

# original's name -> transformers' name
RENAMES = (
    ("Qformer.bert.", "Qformer."),
    ("Qformer.embeddings.LayerNorm", "Qformer.layernorm"),
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
)


def build_qformer(
    num_query_token: int,
    vision_width: int,
    q_former_kwargs: Mapping[str, Any] | None = None,
    *,
    empty: bool = False,
) -> tuple[Blip2QFormerModel, nn.Parameter]:
    """A Q-Former and its queries, in float32 on the CPU.

    Args:
        num_query_token: how many tokens an image becomes.
        vision_width: width of the encoder's tokens.
        q_former_kwargs: overrides of BERT-base's sizes.
        empty: True builds it without memory (on the `meta` device), for `load_blip2`; False gives it
            random weights.

    Returns:
        The module, and its learned queries [1, num_query_token, hidden].
    """
    sizes = bind(_sizes, q_former_kwargs, where="model.q_former_kwargs")
    config = Blip2QFormerConfig(**sizes, encoder_hidden_size=vision_width)
    queries = nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
    if not empty:  # what is loaded is not drawn: with the same seed, a model without vision starts alike
        nn.init.normal_(queries, std=config.initializer_range)
    with init_empty_weights(include_buffers=False) if empty else nullcontext():
        return Blip2QFormerModel(config), queries


def _sizes(
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    cross_attention_frequency: int = 2,
) -> None:
    """The keys that `q_former_kwargs` may have."""


def to_transformers_key(key: str) -> str:
    """The original's name of a tensor -> transformers'."""
    for ours, theirs in RENAMES:
        key = key.replace(ours, theirs)
    return key


def to_original_key(key: str) -> str:
    """transformers' name of a tensor -> the original's, as checkpoints have it."""
    if not key.startswith("Qformer."):
        return key
    key = key.replace(".attention.attention.", ".attention.self.")
    key = key.replace(".crossattention.attention.", ".crossattention.self.")
    key = key.replace("Qformer.layernorm", "Qformer.embeddings.LayerNorm")
    return key.replace("Qformer.", "Qformer.bert.", 1)


def load_blip2(
    model: nn.Module,
    tensors: Mapping[str, Any],
    *,
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Load BLIP-2's `Qformer`, `query_tokens` and `ln_vision` into a model that has all three.

    An empty Q-Former is made in `dtype` on `device`.

    Raises:
        CheckpointError: for missing or unexpected keys, or shapes that differ.
    """
    tensors = tensors.get("model", tensors)
    wanted = {to_transformers_key(key): value for key, value in tensors.items() if not TEXT_HALF.match(key)}
    parts = ("Qformer.", "query_tokens", "ln_vision.")
    needed = {name for name, _ in model.named_parameters() if name.startswith(parts)}
    require_keys(needed, wanted, source=source)
    made_for, here = len(wanted["ln_vision.weight"]), len(model.ln_vision.weight)
    if made_for != here:
        raise CheckpointError(
            f"{source} was made for an encoder {made_for} wide, model.vit_model is {here} wide: please set "
            "model.has_qformer: False, or train a new Q-Former (model.q_former_model: null and "
            "model.freeze_qformer: False)"
        )
    load_into(model, wanted, source=source, dtype=dtype, device=device)

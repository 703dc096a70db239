"""The Q-Former of BLIP-2 (Li et al. 2023, arXiv:2301.12597): transformers' module, the original's keys."""

import re
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from minigpt4.common.errors import CheckpointError
from minigpt4.models.bridges import Bridge
from minigpt4.models.settings import RANDOM
from minigpt4.weights.checkpoint import load_into, require_keys

# What BLIP-2's file holds beside the part that looks at images: its text half and other heads.
TEXT_HALF = re.compile(
    r"Qformer\.bert\.embeddings\.(word_embeddings|position_embeddings|position_ids)"
    r"|Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\."
    r"|Qformer\.cls\.|(t5|opt|llm|vision|text)_proj\.|itm_head\.|temp$"
)

# the original's name -> its name here, below a vision tower
RENAMES = (
    ("Qformer.bert.", "bridge.Qformer."),
    ("query_tokens", "bridge.query_tokens"),
    ("Qformer.embeddings.LayerNorm", "Qformer.layernorm"),
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
)


class QFormerBridge(Bridge):
    """Learned queries look at the encoder's tokens; what they become is what the language model is given.

    Args:
        qformer: transformers' module.
        query_tokens: the queries, [1, P, width].
        frozen: whether both stay as they are.
    """

    def __init__(
        self, qformer: Blip2QFormerModel, query_tokens: nn.Parameter, *, frozen: bool = True
    ) -> None:
        super().__init__()
        self.Qformer = qformer.requires_grad_(not frozen)
        self.query_tokens = query_tokens.requires_grad_(not frozen)
        _, self.count, self.width = query_tokens.shape
        self.frozen = frozen

    def train(self, mode: bool = True) -> "QFormerBridge":
        """Frozen, it stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        dtype = self.Qformer.layernorm.weight.dtype
        queries = self.query_tokens.to(dtype).expand(len(tokens), -1, -1)
        return self.Qformer(query_embeds=queries, encoder_hidden_states=tokens.to(dtype)).last_hidden_state

    def blocks(self) -> list[nn.Module]:
        return list(self.Qformer.encoder.layer)

    def settle(self, device: torch.device, dtype: torch.dtype) -> None:
        """Onto its device, the module in `dtype`; the queries stay in float32."""
        self.Qformer.to(device, dtype)  # type: ignore[arg-type]  (a decorator hides what it takes)
        self.query_tokens.data = self.query_tokens.data.to(device)


def build_qformer(
    num_query_token: int,
    vision_width: int,
    sizes: Mapping[str, Any] | None = None,
    *,
    empty: bool = False,
) -> tuple[Blip2QFormerModel, nn.Parameter]:
    """A Q-Former and its queries, in float32 on the CPU.

    Args:
        num_query_token: how many tokens an image becomes.
        vision_width: width of the encoder's tokens.
        sizes: overrides of BERT-base's, as `Blip2QFormerConfig` names them.
        empty: True builds it without memory (on the `meta` device), for `load_blip2`; False gives it
            random weights.

    Returns:
        The module, and its learned queries [1, num_query_token, hidden].
    """
    config = Blip2QFormerConfig(**(sizes or {}), encoder_hidden_size=vision_width)
    queries = nn.Parameter(torch.zeros(1, num_query_token, config.hidden_size))
    if not empty:  # what is loaded is not drawn: with the same seed, a model without vision starts alike
        nn.init.normal_(queries, std=config.initializer_range)
    with init_empty_weights(include_buffers=False) if empty else nullcontext():
        return Blip2QFormerModel(config), queries


def to_tower_key(key: str) -> str:
    """The original's name of a tensor -> its name in a vision tower."""
    for theirs, ours in RENAMES:
        key = key.replace(theirs, ours)
    return key


def to_original_key(key: str) -> str:
    """transformers' name of a tensor, below `Qformer.` -> the original's, as checkpoints have it."""
    if not key.startswith("Qformer."):
        return key
    key = key.replace(".attention.attention.", ".attention.self.")
    key = key.replace(".crossattention.attention.", ".crossattention.self.")
    key = key.replace("Qformer.layernorm", "Qformer.embeddings.LayerNorm")
    return key.replace("Qformer.", "Qformer.bert.", 1)


def load_blip2(
    tower: nn.Module,
    tensors: Mapping[str, Any],
    *,
    source: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> None:
    """Load BLIP-2's `Qformer`, `query_tokens` and `ln_vision` into a vision tower.

    An empty Q-Former is made in `dtype` on `device`.

    Raises:
        CheckpointError: for missing or unexpected keys, or shapes that differ.
    """
    tensors = tensors.get("model", tensors)
    wanted = {to_tower_key(key): value for key, value in tensors.items() if not TEXT_HALF.match(key)}
    parts = [name for name, _ in tower.named_parameters() if name.startswith(("bridge.", "ln_vision."))]
    require_keys({_key_in_file(name) for name in parts}, tensors, source=source)
    made_for, here = len(wanted["ln_vision.weight"]), len(tower.get_parameter("ln_vision.weight"))
    if made_for != here:
        raise CheckpointError(
            f"{source} was made for an encoder {made_for} wide, model.vit_model is {here} wide: please set "
            f"model.has_qformer: False, or train a new Q-Former (model.q_former_model: {RANDOM} and "
            "model.freeze_qformer: False)"
        )
    load_into(tower, wanted, source=source, dtype=dtype, device=device, key_of=_key_in_file)


def _key_in_file(name: str) -> str:
    """The inverse of `to_tower_key`."""
    return to_original_key(name.removeprefix("bridge."))

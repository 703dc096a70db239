"""The keys and values of processed tokens, so that they are not computed again.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from minigpt4.models.execution import without_cudnn_attention
from minigpt4.models.language_model import LanguageModel


def keeps_tokens(language: LanguageModel) -> bool:
    """Whether all layers cache keys and values per token, so that the cache can be cropped.

    Layers with a recurrent state (Mamba) cannot drop their last tokens.
    """
    # Older versions of transformers give models with a recurrent state a cache of their own.
    model: Any = language.model
    if not model._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=language.config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


class KeyValues:
    """A growing key-value cache."""

    def __init__(self, language: LanguageModel) -> None:
        self.language = language
        # Without the model's config, so that every layer keeps all tokens. With it, sliding-window layers
        # only keep their window and cannot be cropped. The model masks tokens outside the window itself.
        self._cache: Any = DynamicCache()
        self._mask: torch.Tensor | None = None
        # Not every model can compute the logits of the last token only.
        parameters = inspect.signature(language.model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    @property
    def length(self) -> int:
        """Number of cached tokens, including padding."""
        return self._cache.get_seq_length()

    def crop(self, length: int) -> None:
        """Keep the first `length` tokens."""
        if length < self.length:  # `crop(0)` of older versions of transformers removes all
            self._cache.crop(length - self.length)

    def selected(self, rows: Sequence[int]) -> "KeyValues":
        """A copy of some rows, without their common padding."""
        index = torch.tensor(list(rows), device=self.language.device)
        mask = None if self._mask is None else self._mask[index]
        start = 0 if mask is None else int(mask.argmax(dim=1).min())
        held = [(keys[index, :, start:], values[index, :, start:]) for keys, values in self.tensors()]
        return self._of(held, None if mask is None or mask[:, start:].all() else mask[:, start:])

    def joined(self, other: "KeyValues") -> "KeyValues":
        """The rows of both, this one's first; the shorter ones are padded on the left."""
        length = max(self.length, other.length)
        pairs = [(one.filled(length), one.filled_mask(length)) for one in (self, other)]
        (mine, my_mask), (yours, your_mask) = pairs
        held = [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]])) for a, b in zip(mine, yours, strict=True)]
        return self._of(held, torch.cat([my_mask, your_mask]))

    def extend(self, longer: "KeyValues") -> None:
        """Append what another cache, which begins with the same tokens, holds beyond this one's."""
        length = self.length
        for layer, (keys, values) in enumerate(longer.tensors()):
            self._cache.update(keys[:, :, length:], values[:, :, length:], layer)

    def filled(self, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, [B, heads, length, D], with zeros on the left."""
        more = (0, 0, length - self.length, 0)
        return [(pad(keys, more), pad(values, more)) for keys, values in self.tensors()]

    def filled_mask(self, length: int) -> torch.Tensor:
        """[B, length], 0 where `filled` has padding."""
        mask = self._mask
        if mask is None:
            rows = len(self.tensors()[0][0])
            mask = torch.ones(rows, self.length, dtype=torch.long, device=self.language.device)
        return pad(mask, (length - self.length, 0))

    def tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, [B, heads, length, width]."""
        return [(layer.keys, layer.values) for layer in self._cache.layers]

    def _of(
        self, held: Sequence[tuple[torch.Tensor, torch.Tensor]], mask: torch.Tensor | None
    ) -> "KeyValues":
        made = KeyValues(self.language)
        for layer, (keys, values) in enumerate(held):
            made._cache.update(keys, values, layer)
        made._mask = mask
        return made

    @torch.no_grad()
    def read(self, embeds: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Process further tokens.

        Args:
            embeds: [B, T, D], of text and images; on any device.
            mask: [B, T], 0 for padding on the left; only for the first tokens.

        Returns:
            Logits of the next token, [B, V] in float32.
        """
        self._mask = None if mask is None else mask.to(self.language.device)
        positions = {} if self._mask is None else {"position_ids": (self._mask.cumsum(-1) - 1).clamp(min=0)}
        return self._forward(inputs_embeds=embeds.to(self.language.device), **positions)

    @torch.no_grad()
    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Process one more text token per row, [B, 1] -> logits of the next, [B, V] in float32."""
        if self._mask is None:
            return self._forward(input_ids=ids)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), 1)], dim=1)
        return self._forward(input_ids=ids, position_ids=self._mask.sum(-1, keepdim=True) - 1)

    def _forward(self, **given: torch.Tensor) -> torch.Tensor:
        language = self.language
        # The layers compiled for training do not fit a growing cache.
        eager = torch.compiler.set_stance("force_eager") if language.compiled else nullcontext()
        with eager, language.in_own_precision(), without_cudnn_attention():
            out = language.model(
                **given,
                attention_mask=self._mask,
                past_key_values=self._cache,
                use_cache=True,
                **self._last_only,
            )
        return out.logits[:, -1].float()

"""A static key-value cache, and a decode step that is compiled or recorded for it once.

Decoding with a small language model is limited by the host, which launches hundreds of kernels per token.
Compilation fuses some of them, and a CUDA graph launches all of them at once.

Shapes: B rows, T tokens, D width, V vocabulary, C capacity in tokens.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, StaticLayer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from minigpt4.models.execution import without_cudnn_attention
from minigpt4.models.key_values import KeyValues
from minigpt4.models.language_model import LanguageModel

GROUPED = "grouped_decode"


class FixedKeyValues(KeyValues):
    """Keys and values in static tensors.

    Args:
        language: the language model.
        rows: B.
        capacity: C, the maximum length of prompt and reply together; the caller ensures that they fit.
    """

    def __init__(self, language: LanguageModel, rows: int, capacity: int) -> None:
        super().__init__(language)
        self.rows, self.capacity = rows, capacity
        layers: list[Any] = [
            StaticLayer(max_cache_len=capacity) for _ in range(language.config.num_hidden_layers)
        ]
        self._cache = Cache(layers=layers)
        self._length = 0
        # Static inputs of the step.
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=language.device)
        self._positions = torch.zeros_like(self._ids)
        self._step_mask: torch.Tensor | None = None
        if rows > 1:
            self._step_mask = torch.ones(rows, capacity, dtype=torch.long, device=language.device)
        compiled = language.compiled
        self._step: Any = torch.compile(self._next_logits, dynamic=False) if compiled else self._next_logits
        self._recorded: Any = None
        self._logits: Any = None

    @property
    def length(self) -> int:
        return self._length

    def crop(self, length: int) -> None:
        """The rest is masked until it is overwritten."""
        self._length = length
        for layer in self._cache.layers:
            layer.cumulative_length.fill_(length)

    @torch.no_grad()
    def read(self, embeds: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        logits = super().read(embeds, mask)
        self._length += embeds.shape[1]
        self._positions.fill_(self._length)
        if mask is not None:
            assert self._step_mask is not None and self._mask is not None
            self._step_mask.fill_(1)
            self._step_mask[:, : mask.shape[1]] = self._mask
            self._positions.copy_(self._mask.sum(-1, keepdim=True))
        return logits

    def load(self, keys: KeyValues) -> None:
        """Take over the tokens of another cache, which has the same rows and no padding."""
        for layer, (held_keys, held_values) in zip(self._cache.layers, keys.tensors(), strict=False):
            if not layer.is_initialized:
                layer.lazy_initialization(held_keys, held_values)
            layer.keys[:, :, : keys.length].copy_(held_keys)
            layer.values[:, :, : keys.length].copy_(held_values)
        self.crop(keys.length)
        self._positions.fill_(keys.length)

    def tensors(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        layers = [layer for layer in self._cache.layers if layer.is_initialized]
        return [(layer.keys[:, :, : self._length], layer.values[:, :, : self._length]) for layer in layers]

    @torch.no_grad()
    def step(self, ids: torch.Tensor) -> torch.Tensor:
        self._ids.copy_(ids)
        if self.language.device.type == "cuda":
            self.record()
        if self._recorded is not None:
            self._recorded.replay()
        else:
            self._logits = self._run()
        self._positions += 1
        self._length += 1
        return self._logits

    @torch.no_grad()
    def record(self) -> None:
        """Record the step, unless that has been done; the cache is not changed.

        Raises:
            RuntimeError: where the step cannot be recorded.
        """
        if self._recorded is None:
            language = self.language
            self._recorded, self._logits = recorded(
                self._run, lambda: self.crop(self._length), language.device, rehearse=not language.compiled
            )

    def _run(self) -> torch.Tensor:
        own = self.language.in_own_precision()
        with own, without_cudnn_attention(), grouped_attention(self.language):
            return self._step(self._ids, self._positions, self._step_mask)

    def _next_logits(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        out = self.language.model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **self._last_only,
        )
        return out.logits[:, -1].float()


def recorded(
    run: Callable[[], torch.Tensor], undo: Callable[[], None], device: torch.device, *, rehearse: bool
) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    """Warm up, compile if `run` is to be compiled, and record.

    Args:
        run: changes tensors in place, always the same ones.
        undo: takes back what `run` has changed.
        device: where it runs.
        rehearse: raise RuntimeError before recording if `run` waits for the device, as code does whose
            control flow depends on the data. A failed recording can leave torch's random generator locked.

    Returns:
        The graph, and the tensor in which it leaves the result of `run`.
    """
    with torch.cuda.device(device):
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for last in (False, True):
                with refused_waiting() if rehearse and last else nullcontext():
                    run()
                undo()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = run()
    return graph, result


@contextmanager
def refused_waiting() -> Iterator[None]:
    """Have torch raise RuntimeError, in all threads, where the host would wait for the device."""
    usual = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(usual)


@contextmanager
def grouped_attention(language: LanguageModel) -> Iterator[None]:
    """Have a model that uses torch's SDPA read the keys and values of grouped-query attention once.

    With a mask, which a static cache needs, SDPA copies them for every head, and reads those of a head in one
    thread block.
    """
    config = language.config
    usual = config._attn_implementation
    if usual == "sdpa" and language.model._supports_attention_backend:
        config._attn_implementation = GROUPED
    try:
        yield
    finally:
        config._attn_implementation = usual


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [B, H, 1, D], keys and values [B, G, C, D], mask [B, 1, 1, C] -> [B, 1, H, D]."""
    batch, heads, _one, width = query.shape
    query = query.reshape(batch, key.shape[1], -1, width)
    scores = query @ key.transpose(2, 3) * (width**-0.5 if scaling is None else scaling)
    scores = scores.float().masked_fill(~attention_mask, -torch.inf)
    attended = scores.softmax(dim=-1).to(value.dtype) @ value
    return attended.reshape(batch, 1, heads, -1), None


AttentionInterface.register(GROUPED, _attend)
AttentionMaskInterface.register(GROUPED, sdpa_mask)

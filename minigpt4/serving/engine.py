"""Generates replies to prompts: streamed one by one, or in batches.

Shapes: B rows, T tokens, P tokens per image, D the language model's width.
"""

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from transformers import StoppingCriteria, StoppingCriteriaList

from minigpt4.common.rng import undisturbed
from minigpt4.models.decoding import Row, decode
from minigpt4.models.fixed_key_values import FixedKeyValues
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.key_values import KeyValues, keeps_tokens
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.recorded_step import RecordedStep
from minigpt4.prompts.reply_end import ReplyReader
from minigpt4.serving.caches import Cache, PromptCaches
from minigpt4.serving.pictures import SeenPictures
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.replies import Reply

# Images per batch of the encoder.
AT_ONCE = 32
# Capacities of compiled steps are multiples of this, so that few are compiled.
CAPACITY_STEP = 256
# Tokens for the reply after the longest prompt, with a compiled step.
LEAST_ROOM = 512
# Number of compiled steps for batches that are kept, with their memory.
MOST_SIZES = 2


class Engine:
    """Generates replies. Thread-safe: concurrent replies are interleaved token by token.

    Args:
        model: in evaluation mode.
        keep_caches: number of dialogues whose keys and values are cached.
        keep_images: number of images whose embeddings are cached.
        record: on a GPU, whether the steps of single replies run as a CUDA graph.
    """

    def __init__(
        self, model: MiniGPTBase, *, keep_caches: int = 8, keep_images: int = 256, record: bool = True
    ) -> None:
        self.model = model
        self._stepwise = keeps_tokens(model.language)
        fixed = None
        # The longest prompt and reply together, in tokens.
        self._most = model.language.positions
        if model.language.compiled and self._stepwise:
            # One fixed length, so that nothing is recompiled as a dialogue grows.
            self._most = min(_rounded(model.max_context_len + LEAST_ROOM), self._most or sys.maxsize)
            fixed = FixedKeyValues(model.language, 1, self._most)
        self.caches = PromptCaches(model.language, keep_caches, 4 * model.max_context_len, fixed)
        self._recorded = RecordedStep(model.language) if record else None
        self._sizes: OrderedDict[tuple[int, int], FixedKeyValues] = OrderedDict()
        # The encoder is compiled for one batch size.
        self._see = SeenPictures(self._look, keep_images, at_once=1 if model.language.compiled else AT_ONCE)
        self._turn = threading.Lock()

    def reply(self, prompt: Prompt, settings: GenerationSettings) -> Reply:
        """The reply to a prompt; it is generated while it is read."""
        settings = self.limited(settings, prompt)
        generate = self._token_by_token if self.is_stepwise(settings) else self._in_one_piece
        return Reply(prompt, lambda reply: generate(reply, settings))

    def replies(self, prompts: Sequence[Prompt], settings: Sequence[GenerationSettings]) -> list[Reply]:
        """The finished replies to several prompts in one batch, each with its own settings."""
        replies = [self.reply(*pair) for pair in zip(prompts, settings, strict=True)]
        limited = [self.limited(*pair) for pair in zip(settings, prompts, strict=True)]
        together = [pair for pair in zip(replies, limited, strict=True) if self.is_stepwise(pair[1])]
        if len(together) > 1:
            self._side_by_side(together)
        for reply in replies:
            if reply.finish_reason is None:
                reply.wait()
        return replies

    @property
    def longest(self) -> int:
        """The longest prompt in tokens; it leaves room for at least one token."""
        return min(self.model.max_context_len, sys.maxsize if self._most is None else self._most - 1)

    def room(self, settings: GenerationSettings) -> int:
        """The longest prompt that leaves room for `max_new_tokens`, or for half of the context."""
        if self._most is None:
            return self.longest
        return min(self.longest, max(self._most - settings.max_new_tokens, self._most // 2))

    def limited(self, settings: GenerationSettings, prompt: Prompt) -> GenerationSettings:
        """The settings with `max_new_tokens` limited to the remaining context."""
        left = settings.max_new_tokens if self._most is None else self._most - len(prompt.tokens)
        if left >= settings.max_new_tokens:
            return settings
        return replace(settings, max_new_tokens=left, min_new_tokens=min(left, settings.min_new_tokens))

    def is_stepwise(self, settings: GenerationSettings) -> bool:
        return self._stepwise and settings.num_beams == 1

    def _token_by_token(self, reply: Reply, settings: GenerationSettings) -> Iterator[str]:
        reply.start()
        row, shown = Row(settings, self.reader()), 0
        with (
            self.caches.borrow(reply.prompt.tokens) as cache,
            closing(decode(cache.keys, self.uncached(reply, cache), [row], recorded=self._recorded)) as steps,
        ):
            while not reply.cancelled and self._step(steps):
                cache.tokens.append(row.reader.ids[-1])
                reply.count(row.reader.ids)
                reply.text = row.reader.settled
                if len(reply.text) > shown:
                    # By length: invalid bytes can change earlier text, but it has been streamed.
                    yield reply.text[shown:]
                    shown = len(reply.text)
        reply.finish(row.reader.text, row.finish_reason)
        if len(reply.text) > shown:
            yield reply.text[shown:]

    def _step(self, steps: Iterator[None]) -> bool:
        """Whether there was another token."""
        with self._turn:
            return next(steps, self) is None

    def _side_by_side(self, replies: Sequence[tuple[Reply, GenerationSettings]]) -> None:
        for reply, _ in replies:
            reply.start()
        rows = [Row(settings, self.reader()) for _, settings in replies]
        with self._turn:
            embeds, mask = self.embed([reply.prompt for reply, _ in replies])
        steps = self._decode_many(embeds, mask, rows)
        while self._step(steps):
            for (reply, _), row in zip(replies, rows, strict=True):
                if reply.finish_reason is None:
                    reply.count(row.reader.ids)
                    if row.finish_reason:
                        reply.finish(row.reader.text, row.finish_reason)

    def _decode_many(
        self, embeds: torch.Tensor, mask: torch.Tensor | None, rows: Sequence[Row]
    ) -> Iterator[None]:
        """As `decode`. For the compiled step, rows and tokens are padded to one of few sizes."""
        assert mask is not None
        if not self.model.language.compiled:
            return decode(KeyValues(self.model.language), embeds, rows, mask)
        more = (1 << (len(rows) - 1).bit_length()) - len(rows)
        filled = (torch.cat([one, one[:1].repeat(more, *[1] * (one.ndim - 1))]) for one in (embeds, mask))
        embeds, mask = filled
        longest = max(row.settings.max_new_tokens for row in rows)
        keys = self._fixed_keys(len(rows) + more, _rounded(embeds.shape[1] + longest))
        ended = (Row(rows[0].settings, self.reader(), "length") for _ in range(more))
        return decode(keys, embeds, [*rows, *ended], mask)

    def _fixed_keys(self, rows: int, capacity: int) -> FixedKeyValues:
        """An empty cache; those of the most recent sizes are kept."""
        size = (rows, capacity)
        keys = self._sizes.pop(size, None) or FixedKeyValues(self.model.language, rows, capacity)
        keys.crop(0)
        self._sizes[size] = keys
        while len(self._sizes) > MOST_SIZES:
            self._sizes.popitem(last=False)
        return keys

    def _in_one_piece(self, reply: Reply, settings: GenerationSettings) -> Iterator[str]:
        """Beam search, which cannot be streamed, and models whose cache cannot be cropped."""
        reply.start()
        reader, device = self.reader(), self.model.language.device
        seeded = undisturbed(device) if settings.seed is not None else nullcontext()
        with self._turn, torch.no_grad(), seeded:
            if settings.seed is not None:
                torch.manual_seed(settings.seed)
            embeds, mask = self.embed([reply.prompt])
            stops = StoppingCriteriaList([*self.model.text_stops(), _Cancelled(reply)])
            ids = self.model.language.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask,
                stopping_criteria=stops,
                eos_token_id=self.model.stop_ids,
                **_library_settings(settings),
            )
        for token in ids[0].tolist():
            if not reader.ended:
                reader.add(token)
        reply.count(reader.ids)
        reply.finish(reader.text, "stop" if reader.ended else "length")
        if reply.text:
            yield reply.text

    def embed(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings [B, T, D] and their mask [B, T], padded on the left; None for a single prompt."""
        tokens = self.model.prompts.encode([prompt.dialogue for prompt in prompts], pad_left=True)
        tokens = tokens.to(self.model.device)
        with torch.no_grad():
            embeds = self.model.embed(tokens, self.see(prompts))
        return embeds, None if len(prompts) == 1 else tokens.attention_mask

    def uncached(self, reply: Reply, cache: Cache) -> torch.Tensor:
        """Embeddings [1, T, D] of the prompt's tokens that `cache` lacks; extends its `tokens`."""
        reply.cached_tokens = known = len(cache.tokens)
        with self._turn:
            embeds, _ = self.embed([reply.prompt])
        cache.tokens.extend(reply.prompt.tokens[known:])
        return embeds[:, known:]

    @torch.no_grad()
    def see(self, prompts: Sequence[Prompt]) -> torch.Tensor | None:
        """Embeddings of the prompts' pictures, [N, P, D]; None for no picture."""
        return self._see([picture for prompt in prompts for picture in prompt.pictures])

    def _look(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode_img(pixels)[0]

    def reader(self) -> ReplyReader:
        model = self.model
        return ReplyReader(model.language.tokenizer, model.stop_ids, model.end_text)


class _Cancelled(StoppingCriteria):
    """Ends generation when the reply is cancelled."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        return torch.full((len(input_ids),), self.reply.cancelled, device=input_ids.device)


def _rounded(tokens: int) -> int:
    return -(-tokens // CAPACITY_STEP) * CAPACITY_STEP


def _library_settings(settings: GenerationSettings) -> dict[str, Any]:
    """Settings as arguments of transformers' `generate`."""
    names = ("min_new_tokens", "max_new_tokens", "num_beams", "repetition_penalty", "length_penalty")
    shared = {name: getattr(settings, name) for name in names} | {"do_sample": settings.sampled}
    if not settings.sampled:
        return shared
    drawn = {"temperature": float(settings.temperature), "top_p": float(settings.top_p)}
    return shared | drawn | {"top_k": settings.top_k}

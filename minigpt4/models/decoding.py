"""The decoding loop, for one prompt or a batch.

Unlike transformers' `generate`, each row has its own settings, random generator and end, each token is
available as soon as it is chosen, generation can stop at any time, and the keys and values remain for the
next turn.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import secrets
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minigpt4.models.generation import GenerationSettings
from minigpt4.models.key_values import KeyValues
from minigpt4.models.recorded_step import RecordedStep
from minigpt4.prompts.reply_end import ReplyReader


@dataclass
class Row:
    """A reply being generated.

    Attributes:
        settings: of the sampling.
        reader: decodes the tokens chosen so far.
        finish_reason: `stop` if the model ended it, `length` at `max_new_tokens`; None before.
    """

    settings: GenerationSettings
    reader: ReplyReader
    finish_reason: str | None = None

    def add(self, token: int) -> None:
        """Add a token, unless the reply has ended."""
        if self.finish_reason is None:
            self.reader.add(token)
            if self.reader.ended:
                self.finish_reason = "stop"
            elif len(self.reader.ids) >= self.settings.max_new_tokens:
                self.finish_reason = "length"


@torch.no_grad()
def decode(
    keys: KeyValues,
    embeds: torch.Tensor,
    rows: Sequence[Row],
    mask: torch.Tensor | None = None,
    recorded: RecordedStep | None = None,
) -> Generator[None, None, None]:
    """Process prompts and generate replies, one token per row and step, until all have ended.

    Args:
        keys: of the tokens before `embeds`; afterwards, of all but the last token of the replies.
        embeds: [B, T, D].
        rows: B replies; `num_beams` is ignored.
        mask: [B, T], 0 for padding on the left; None without padding.
        recorded: runs the steps where it can; for a single row. Close the iterator before `keys` is used.
    """
    samplers = [Sampler(row, keys.language.device) for row in rows]

    def add(logits: torch.Tensor) -> torch.Tensor:
        chosen = choose(samplers, logits)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            row.add(token)
        return chosen[:, None]

    last = add(keys.read(embeds, mask))
    yield
    if all(row.finish_reason for row in rows):
        return
    longest = max(row.settings.max_new_tokens for row in rows)
    with nullcontext(keys) if recorded is None else recorded.lent_to(keys, longest) as stepping:
        while not all(row.finish_reason for row in rows):
            last = add(stepping.step(last))
            yield


def choose(samplers: Sequence["Sampler"], logits: torch.Tensor) -> torch.Tensor:
    """Logits [B, V] -> the next token of each row, [B]."""
    if all(sampler.plain for sampler in samplers):
        return logits.argmax(dim=-1)
    return torch.cat([sampler(logits[place : place + 1]) for place, sampler in enumerate(samplers)])


class Sampler:
    """Chooses the tokens of one row.

    It has its own random generator: torch's global one is not touched, and a seed gives the same reply
    independently of the rest of the batch.
    """

    def __init__(self, row: Row, device: torch.device) -> None:
        self.row, settings = row, row.settings
        self.stop_ids = torch.tensor(list(row.reader.stop_ids), dtype=torch.long, device=device)
        self.ids = torch.empty(1, 0, dtype=torch.long, device=device)
        self.adjust: Any = LogitsProcessorList()
        if settings.repetition_penalty != 1:
            self.adjust.append(RepetitionPenaltyLogitsProcessor(float(settings.repetition_penalty)))
        self.generator = None
        if settings.sampled:
            self.generator = torch.Generator(device)
            self.generator.manual_seed(secrets.randbits(63) if settings.seed is None else settings.seed)
            self.adjust.append(TemperatureLogitsWarper(float(settings.temperature)))
            if settings.top_k:
                self.adjust.append(TopKLogitsWarper(settings.top_k))
            if settings.top_p < 1:
                self.adjust.append(TopPLogitsWarper(float(settings.top_p)))

    @property
    def plain(self) -> bool:
        """Whether the next token is simply the most probable one."""
        return not self.adjust and not self._too_short

    @property
    def _too_short(self) -> bool:
        return len(self.row.reader.ids) < self.row.settings.min_new_tokens

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[1, V] -> [1]."""
        if self._too_short:
            logits = logits.index_fill(1, self.stop_ids, -torch.inf)
        scores = self.adjust(self.ids, logits)
        if self.generator is None:
            token = scores.argmax(dim=-1)
        else:
            token = torch.multinomial(scores.softmax(dim=-1), 1, generator=self.generator)[:, 0]
        self.ids = torch.cat([self.ids, token[:, None]], dim=1)
        return token

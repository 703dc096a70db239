"""Where a reply ends, per row of a batch, and its text.

Shapes: B rows, T tokens generated so far.
"""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria

# A token may be a single byte of a character.
LONGEST_CHARACTER = 4


class StoppingCriteriaSub(StoppingCriteria):
    """Ends a row whose last tokens are one of the given sequences of ids.

    Args:
        stops: sequences of ids, as tensors or lists.
    """

    def __init__(self, stops: Sequence[torch.Tensor | Sequence[int]] = ()) -> None:
        self.stops = [torch.as_tensor(stop).flatten().cpu() for stop in stops]
        if any(len(stop) == 0 for stop in self.stops):
            raise ValueError("an empty stop sequence would end every reply immediately")

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """[B, T] ids -> [B], True where a row has ended."""
        done = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        for stop in self.stops:
            if len(stop) <= input_ids.shape[1]:
                done |= (input_ids[:, -len(stop) :] == stop.to(input_ids.device)).all(dim=1)
        return done


class StopAtText(StoppingCriteria):
    """Ends a row whose text contains the end symbol.

    It compares text, because a symbol like "###" is tokenised differently after different words. It is called
    for each token, so it only decodes the last tokens, which can contain a new end symbol.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str) -> None:
        self.tokenizer = tokenizer
        self.end = end
        # Plus some tokens without text.
        self.reach = LONGEST_CHARACTER * len(end) + 8

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """[B, T] ids without the prompt -> [B], True where a row has ended."""
        tails = input_ids[:, -self.reach :].tolist()
        done = [
            self.end in (self._read(tail) or self._read(row.tolist()))
            for tail, row in zip(tails, input_ids, strict=True)
        ]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)

    def _read(self, ids: list[int]) -> str:
        return _text(self.tokenizer, ids)


class ReplyReader:
    """Decodes a growing reply incrementally: each token is decoded once or twice.

    Args:
        tokenizer: the language model's.
        stop_ids: each ends the reply.
        end: the end symbol, "" for none.

    Attributes:
        ids: all tokens, the end included.
        ended: whether a stop id or the end symbol is among them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int], end: str) -> None:
        self.tokenizer, self.stop_ids, self.end = tokenizer, stop_ids, end
        self.ids: list[int] = []
        self.ended = False
        self._text = ""
        # Some tokens decode to text only beside others, so the newest are decoded together with those that
        # are read already: the text of ids[_start:] begins with that of ids[_start:_read].
        self._start = self._read = 0

    def add(self, token: int) -> None:
        """Add a token."""
        self.ids.append(token)
        if token in self.stop_ids:
            self.ended = True
            return
        before = _decode(self.tokenizer, self.ids[self._start : self._read])
        now = _decode(self.tokenizer, self.ids[self._start :])
        half = now.endswith("\N{REPLACEMENT CHARACTER}") and len(self.ids) - self._read < LONGEST_CHARACTER
        if half:
            return
        self._text = (self._text + now[len(before) :]) if self._text else now[len(before) :].lstrip()
        self._start, self._read = self._read, len(self.ids)
        self.ended = bool(self.end) and self.end in self._text

    @property
    def settled(self) -> str:
        """The part of the text that later tokens cannot change.

        A possible beginning of the end symbol, an incomplete character, and trailing white space are held
        back.
        """
        text = self._text.split(self.end)[0] if self.end else self._text
        for length in range(min(len(self.end) - 1, len(text)), 0, -1):
            if text.endswith(self.end[:length]):
                return text[:-length].rstrip()
        return text.rstrip()

    @property
    def text(self) -> str:
        """The whole text, once the reply is complete."""
        return read_reply(self.tokenizer, self.ids, self.stop_ids, self.end)


def read_reply(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_ids: Collection[int], end: str
) -> str:
    """Generated ids as text, up to the first stop id or end symbol, without surrounding white space."""
    text = _text(tokenizer, list(takewhile(lambda token: token not in stop_ids, ids)))
    return (text.split(end)[0] if end else text).rstrip()


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Leading white space is dropped: with the end symbol "\\n" it would mean an empty reply."""
    return _decode(tokenizer, ids).lstrip()


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    # The clean-up joins words to punctuation that follows, which would change what was streamed already.
    return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

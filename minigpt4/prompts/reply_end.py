"""Where a reply ends, each row of a batch by itself, and what of it is shown.

Shapes: B rows, T tokens generated so far.
"""

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria


class StoppingCriteriaSub(StoppingCriteria):
    """Ends a row whose last tokens are one of the given sequences of ids.

    Args:
        stops: sequences of ids, as tensors or lists.
    """

    def __init__(self, stops: Sequence[torch.Tensor | Sequence[int]] = ()) -> None:
        self.stops = [torch.as_tensor(stop).flatten().cpu() for stop in stops]
        if any(len(stop) == 0 for stop in self.stops):
            raise ValueError("an empty stop sequence would end every reply before it begins")

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
    """Ends a row that has spelled the end symbol.

    Read as text, because a symbol like "###" is tokenised differently after different words.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: str) -> None:
        self.tokenizer = tokenizer
        self.end = end

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """[B, T] ids, the prompt not among them -> [B], True where a row has ended."""
        done = [self.end in _text(self.tokenizer, row) for row in input_ids.tolist()]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def read_reply(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], stop_ids: Collection[int], end: str
) -> str:
    """Generated ids as text, up to the first stop id or end symbol, without surrounding white space."""
    text = _text(tokenizer, list(takewhile(lambda token: token not in stop_ids, ids)))
    return (text.split(end)[0] if end else text).rstrip()


def _text(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    """Leading white space is dropped: with the end symbol "\\n" it would mean an empty reply."""
    # The clean-up joins words to punctuation that follows, which would change what was streamed already.
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).lstrip()

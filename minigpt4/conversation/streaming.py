"""A reply handed over while it is being generated: from the thread that writes it to the one that reads."""

import queue
import threading
from collections.abc import Iterator
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from minigpt4.prompts.reply_end import ReplyReader


class ReplyStream(BaseStreamer, StoppingCriteria):
    """Written by `generate` in one thread, token by token; read in another, piece by piece.

    `generate` is given it twice: as its streamer, and as a stopping criterion, through which it learns
    at each step that the reader is gone. The reader gets an empty piece per step, so that it never waits
    for longer than a step and may leave at any time.

    Args:
        reader: of the reply.
    """

    def __init__(self, reader: ReplyReader) -> None:
        self.closed = threading.Event()  # set when nobody reads any more
        self._reader = reader
        self._shown = 0
        self._pieces: queue.Queue[str | BaseException | None] = queue.Queue()

    def put(self, value: torch.Tensor) -> None:
        """Take new ids."""
        for token in value.flatten().tolist():
            self._reader.add(token)
        self._show(self._reader.settled)

    def end(self) -> None:
        self._show(self._reader.text)
        self._pieces.put(None)

    def fail(self, error: BaseException) -> None:
        """Raise `error` where the stream is read."""
        self._pieces.put(error)

    def _show(self, text: str) -> None:
        # By length: bytes that turn out not to be a character spoil valid ones before them (LLaMA's
        # tokenizer judges a run of bytes as a whole), but those have been shown already.
        if len(text) > self._shown:
            self._pieces.put(text[self._shown :])
            self._shown = len(text)

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """[B, T] ids -> [B], all True once nobody reads any more."""
        self._pieces.put("")
        return torch.full((len(input_ids),), self.closed.is_set(), device=input_ids.device)

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece

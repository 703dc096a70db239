"""Replies, which are streamed."""

import threading
import time
from collections.abc import Callable, Iterator

from minigpt4.serving.prompt import Prompt


class Reply(Iterator[str]):
    """An iterator over the pieces of a reply; tokens are generated while it is read.

    A piece is text that later tokens cannot change. `text` and the statistics are updated as it is generated.

    Attributes:
        prompt: the model's input.
        text: without its end symbol and surrounding white space.
        finish_reason: `stop` if the model ended it, `length` at `max_new_tokens`, `cancelled` after `stop` or
            `close`, `error` if it failed; None while it is being generated.
        cached_tokens: tokens of the prompt that were in the cache.
        ids: the tokens generated so far, including the end token.
        first_token_seconds: from the start of generation to the first token; None before.
        seconds: from the start of generation to the last token.
        cancelled: whether generation stops at the next token.
    """

    def __init__(self, prompt: Prompt, generate: "Callable[[Reply], Iterator[str]]") -> None:
        self.prompt = prompt
        self.text = ""
        self.finish_reason: str | None = None
        self.cached_tokens = 0
        self.ids: list[int] = []
        self.first_token_seconds: float | None = None
        self.seconds = 0.0
        self.cancelled = False
        self._started = 0.0
        self._reading = threading.RLock()
        self._generate = generate
        self._pieces: Iterator[str] | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, including images."""
        return len(self.prompt.tokens)

    @property
    def reply_tokens(self) -> int:
        """Tokens generated so far, including the end token."""
        return len(self.ids)

    @property
    def left_out(self) -> int:
        """Turns of the dialogue that did not fit into the prompt."""
        return self.prompt.left_out

    @property
    def tokens_per_second(self) -> float | None:
        """Decoding speed after the first token; None for fewer than two tokens."""
        if self.first_token_seconds is None or self.reply_tokens < 2:
            return None
        return (self.reply_tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)

    def __next__(self) -> str:
        with self._reading:
            if self._pieces is None:
                # A reply from a batch is complete already.
                done = iter([self.text] * bool(self.text))
                self._pieces = done if self.finish_reason else self._generate(self)
            try:
                return next(self._pieces)
            except StopIteration:
                raise
            except BaseException:
                self.finish_reason = "error"
                raise

    def wait(self) -> str:
        """Generate the rest and return the whole text."""
        for _ in self:
            pass
        return self.text

    def stop(self) -> None:
        """Stop generation at the next token. Any thread may call it."""
        self.cancelled = True

    def close(self) -> None:
        """Stop, and wait until generation has ended. Any thread may call it."""
        self.stop()
        with self._reading:
            if self._pieces is None and self.finish_reason is None:
                self.finish("", None)
            self.wait()

    def start(self) -> None:
        """Note the start of generation."""
        self._started = time.perf_counter()

    def count(self, ids: list[int]) -> None:
        """Note all tokens generated so far."""
        self.seconds = time.perf_counter() - self._started
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds
        self.ids = ids

    def finish(self, text: str, reason: str | None) -> None:
        """Note the whole text and the finish reason; None means cancelled."""
        self.text, self.finish_reason = text, reason or "cancelled"

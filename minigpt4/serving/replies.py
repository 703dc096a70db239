"""Replies as they come."""

import threading
import time
from collections.abc import Callable, Iterator

from minigpt4.serving.prompt import Prompt


class Reply(Iterator[str]):
    """The pieces of a reply, each as soon as it is settled; generation goes on as they are taken.

    `text` and the numbers are those of what was generated so far.

    Attributes:
        prompt: what the model was given.
        text: without its end symbol and surrounding white space.
        finish_reason: `stop` where the model ended it, `length` where `max_new_tokens` did, `cancelled` where
            `stop` or `close` did, `error` where it failed; None while it is generated.
        cached_tokens: tokens of the prompt that had been read for an earlier reply.
        ids: the tokens generated so far, the end included.
        first_token_seconds: from when the model began to work on it to its first token; None before.
        seconds: likewise, to its last token.
        cancelled: whether it is to end at the next token.
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
        """Tokens of the prompt, images included."""
        return len(self.prompt.tokens)

    @property
    def reply_tokens(self) -> int:
        """Tokens generated so far, the end included."""
        return len(self.ids)

    @property
    def left_out(self) -> int:
        """Turns of the dialogue for which the prompt had no room."""
        return self.prompt.left_out

    @property
    def tokens_per_second(self) -> float | None:
        """Speed after the first token; None for fewer than two tokens."""
        if self.first_token_seconds is None or self.reply_tokens < 2:
            return None
        return (self.reply_tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)

    def __next__(self) -> str:
        with self._reading:
            if self._pieces is None:
                # One that was generated beside others is there already.
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
        """Generate the rest; the whole text."""
        for _ in self:
            pass
        return self.text

    def stop(self) -> None:
        """Have generation end at the next token; the pieces end then. Any thread may call it."""
        self.cancelled = True

    def close(self) -> None:
        """End generation now; whoever reads gets no more pieces. Any thread may call it."""
        self.stop()
        with self._reading:
            if self._pieces is None and self.finish_reason is None:
                self.finish("", None)
            self.wait()

    def start(self) -> None:
        """Note that the model begins to work on it."""
        self._started = time.perf_counter()

    def count(self, ids: list[int]) -> None:
        """Note that these are the tokens that are generated now."""
        self.seconds = time.perf_counter() - self._started
        if self.first_token_seconds is None:
            self.first_token_seconds = self.seconds
        self.ids = ids

    def finish(self, text: str, reason: str | None) -> None:
        """Note the whole text and why it ended."""
        self.text, self.finish_reason = text, reason or "cancelled"

"""Continuous batching (Orca: Yu et al., OSDI 2022): new requests join the running batch.

A request's prompt is processed alone, on top of the cached prefix of its dialogue (`PromptCaches`). Its keys
and values then join those of the batch, and every step generates one token of each reply. Finished replies
leave at once. A reply that is alone on a GPU is generated with a recorded step.

Shapes: B rows, T tokens, V vocabulary.
"""

import logging
import threading
from collections import deque
from dataclasses import dataclass

import torch

from minigpt4.models.decoding import Row, Sampler, choose
from minigpt4.models.key_values import KeyValues
from minigpt4.models.recorded_step import RecordedStep
from minigpt4.serving.caches import PromptCaches
from minigpt4.serving.engine import Engine
from minigpt4.serving.reply_engine import Asked, Full, ReplyEngine

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Active:
    """A running request."""

    request: Asked
    row: Row
    sampler: Sampler

    def add(self, token: int) -> None:
        reply = self.request.reply
        self.row.add(token)
        reply.count(self.row.reader.ids)
        reply.text = self.row.reader.settled
        if reply.cancelled or self.row.finish_reason:
            reply.finish(self.row.reader.text, self.row.finish_reason)
        self.request.notify()


class Batcher(ReplyEngine):
    """Generates replies in its own thread.

    Args:
        engine: of the model.
        together: maximum batch size.
        waiting: maximum number of queued requests.
    """

    def __init__(self, engine: Engine, together: int = 16, waiting: int = 128) -> None:
        self.engine, self.together, self.most_waiting = engine, together, waiting
        self.caches = PromptCaches(engine.model.language, 2 * together, 4 * engine.model.max_context_len)
        self._waiting: deque[Asked] = deque()
        self._active: list[_Active] = []
        self._keys: KeyValues | None = None
        self._recorded = RecordedStep(engine.model.language)
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """Running and waiting requests."""
        return len(self._active), len(self._waiting)

    def submit(self, request: Asked) -> None:
        """Queue a request. Raises Full."""
        with self._wake:
            if len(self._waiting) >= self.most_waiting:
                raise Full(len(self._waiting))
            self._waiting.append(request)
            self._wake.notify()

    def close(self) -> None:
        """Stop all replies."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._wait():
            try:
                self._admit()
                self._step()
            except Exception as error:
                log.exception("replies failed")
                self._fail([one.request for one in self._active], error)
                self._active, self._keys = [], None
        self._fail([one.request for one in self._active] + list(self._waiting), None)

    def _wait(self) -> bool:
        """Wait for requests; False once closed."""
        with self._wake:
            while not (self._closed or self._waiting or self._active):
                self._wake.wait()
            return not self._closed

    def _fail(self, requests: list[Asked], error: Exception | None) -> None:
        for request in requests:
            request.error = error
            request.reply.finish(request.reply.text, "error" if error else None)
            request.notify()

    def _admit(self) -> None:
        """Start waiting requests while the batch has room."""
        while len(self._active) < self.together:
            with self._wake:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            if request.reply.cancelled:
                self._fail([request], None)
                continue
            try:
                self._begin(request)
            except Exception as error:  # it fails alone
                log.exception("a reply failed")
                self._fail([request], error)

    def _begin(self, request: Asked) -> None:
        reply = request.reply
        if not self.engine.is_stepwise(request.settings):
            # Beams, say: alone, in one piece, while the others wait.
            other = self.engine.reply(request.prompt, request.settings)
            reply.start()
            other.wait()
            reply.count(other.ids)
            reply.finish(other.text, other.finish_reason)
            request.notify()
            return
        reply.start()
        settings = self.engine.limited(request.settings, request.prompt)
        row = Row(settings, self.engine.reader())
        with self.caches.borrow(request.prompt.tokens) as cache:
            logits = cache.keys.read(self.engine.uncached(reply, cache))
            keys = cache.keys.selected([0])
        one = _Active(request, row, Sampler(row, logits.device))
        one.add(int(choose([one.sampler], logits)))
        if reply.finish_reason is None:
            self._keys = keys if self._keys is None else self._keys.joined(keys)
            self._active.append(one)

    def _step(self) -> None:
        """Generate one token of each reply, and remove finished ones."""
        self._leave()
        if not self._active or self._keys is None:
            return
        if len(self._active) == 1:
            (one,) = self._active
            self._keys = self._recorded.load(self._keys, one.row.settings.max_new_tokens)
        last = [[one.row.reader.ids[-1]] for one in self._active]
        logits = self._keys.step(torch.tensor(last, device=self._keys.language.device))
        chosen = choose([one.sampler for one in self._active], logits)
        for one, token in zip(self._active, chosen.tolist(), strict=True):
            one.add(token)
        self._leave()

    def _leave(self) -> None:
        stay = [place for place, one in enumerate(self._active) if one.request.reply.finish_reason is None]
        if len(stay) == len(self._active):
            return
        self._active = [self._active[place] for place in stay]
        if self._keys is not None:
            self._keys = self._keys.selected(stay) if stay else None

"""Requests to stop: Ctrl-C and SIGTERM end a run after its step, with a checkpoint."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Whoever ends a whole job sends the same signal twice: to each of its processes, and through the launcher.
SECONDS_OF_ONE_REQUEST = 1.0


class StoppedWaiting(BaseException):
    """A stop was requested while the process waited for data, or did what can be given up.

    It is not an `Exception`: code that reads data may take any of those for a bad sample.
    """


class StopRequest:
    """While entered, remembers the signals that ask to stop, instead of ending the process.

    Another one, a second or more later, ends it at once, as it would have without this.

    Attributes:
        signal: the number of the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._came = 0.0
        self._interrupts = False
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Only a process's main thread may handle signals; a runner in another one (in a notebook, say) does
        # without them.
        if threading.current_thread() is threading.main_thread():
            # What is ignored stays ignored: a script's background jobs do not react to Ctrl-C.
            heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._earlier = {number: signal.signal(number, self._remember) for number in heard}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def __bool__(self) -> bool:
        return self.signal is not None

    def interrupting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items, each of which may come late or never.

        Raises:
            StoppedWaiting: instead of an item, if a stop is requested before it is there. Nothing more can
                be taken from the items then.
        """
        while True:
            try:
                with self.given_up():
                    item = next(items)
            except StopIteration:
                return
            yield item

    @contextlib.contextmanager
    def given_up(self) -> Iterator[None]:
        """While entered, a request to stop does not wait for the work.

        Raises:
            StoppedWaiting: anywhere in the block, if a stop is requested, or was before.
        """
        outer, self._interrupts = self._interrupts, True
        try:
            if self:
                raise StoppedWaiting
            yield
        finally:
            self._interrupts = outer

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._came = number, now
            # Not through logging: the signal may have come while that was writing. There may be no reader
            # either: a Ctrl-C ends `| tee log` too.
            name = signal.Signals(number).name
            words = f"\n{name}: saving what is trained, then stopping; once more ends it now\n"
            with contextlib.suppress(OSError):
                os.write(2, words.encode())
            if self._interrupts:
                raise StoppedWaiting
        elif now - self._came >= SECONDS_OF_ONE_REQUEST:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold the signals back meanwhile, from this thread and from processes that it starts.

    Those processes go on holding them back until `leave_signals_to_parent`.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows sends none
        yield
        return
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def leave_signals_to_parent(_: int) -> None:
    """For the loader's workers: a Ctrl-C in a terminal and a cluster's SIGTERM reach them too.

    They end when the run closes them or ends, or within seconds of its death.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

"""Being asked to stop: Ctrl-C and SIGTERM end a run after its step, with a checkpoint."""

import os
import signal
import threading
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While entered, remembers the signals that ask to stop, instead of dying of them.

    A second one ends the process at once, as it would have without this.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Only a process's main thread may handle signals; a runner in another one (a notebook's, say) does
        # without.
        if threading.current_thread() is threading.main_thread():
            self._earlier = {number: signal.signal(number, self._remember) for number in SIGNALS}
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

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        # Not through logging: the signal may have come in the middle of its writing.
        name = signal.Signals(number).name
        os.write(2, f"\n{name}: finishing the step and saving; once more ends it now\n".encode())

    def _restore(self) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)


def leave_signals_to_parent(_: int) -> None:
    """For the loader's workers: a Ctrl-C in a terminal and a cluster's SIGTERM reach them too.

    They end when the run closes them, or within seconds of its death.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

"""The line in which visitors wait."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Line:
    """First come, first served.

    Args:
        at_once: how many are served concurrently.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._here: list[object] = []
        self._lock = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[Callable[[], int]]:
        """Wait at the end of the line. The function says how many must leave before it is this one's turn."""
        me = object()
        with self._lock:
            self._here.append(me)
        try:
            yield lambda: max(0, self._here.index(me) - self._at_once + 1)
        finally:
            with self._lock:
                self._here.remove(me)

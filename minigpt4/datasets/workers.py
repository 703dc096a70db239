"""The processes that read for a loader, and what becomes of them."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from minigpt4.common.errors import DataError

# What a dead worker has left behind: an error of the loader's, or of a connection to it.
BROKEN = (RuntimeError, OSError, EOFError)


def dead_workers(name: str, workers: Sequence[BaseProcess], last: Sequence[str]) -> list[str]:
    """What has become of those that are no longer there, or will not be in a second.

    Args:
        name: of what they read.
        workers: the processes.
        last: the last sample that came from each; empty where none came, or is known.
    """
    deadline = time.monotonic() + 1
    for worker in workers:
        with contextlib.suppress(RuntimeError):  # torch's own, from its signal handler
            worker.join(max(deadline - time.monotonic(), 0))
    dead = []
    for worker, key in zip(workers, last, strict=True):
        if code := worker.exitcode:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            dead.append(
                f"{name}: worker {worker.pid} {how}" + (f". Its last sample was {key}" if key else "")
            )
    return dead


def death(dead: Sequence[str], instead: str) -> DataError:
    """The error that a run ends with.

    Args:
        dead: as `dead_workers` gives them, at least one.
        instead: what to do without workers.
    """
    return DataError(
        f"{'. '.join(dead)}. Too little memory (SIGKILL), too little of it in /dev/shm (SIGBUS), or a "
        f"library that crashed? {instead}"
    )


@contextlib.contextmanager
def read_by_workers(loader: DataLoader, name: str) -> Iterator[Iterator[Any]]:
    """The items of a loader, while they are used.

    Raises:
        DataError: if it was the death of a worker that ended the block.
    """
    items = iter(loader)
    workers = list(getattr(items, "_workers", ()))
    try:
        yield items
    except BROKEN as error:
        dead = dead_workers(name, workers, [""] * len(workers))
        if dead:
            raise death(dead, "") from error
        raise

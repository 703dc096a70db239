"""The worker processes of a data loader, and how they die."""

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from torch.utils.data import DataLoader

from minigpt4.common.errors import DataError

# The errors that a dead worker causes in the main process.
BROKEN = (RuntimeError, OSError, EOFError)


def dead_workers(name: str, workers: Sequence[BaseProcess], last: Sequence[str]) -> list[str]:
    """Describes the workers that are dead, or die within a second.

    Args:
        name: of the data set.
        workers: the processes.
        last: the last sample from each; empty if none came, or it is not known.
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


def death(dead: Sequence[str], advice: str = "") -> DataError:
    """The error for dead workers.

    Args:
        dead: from `dead_workers`, at least one.
        advice: added to the message.
    """
    return DataError(
        f"{'. '.join(dead)}. Possible causes: too little memory (SIGKILL), too little shared memory in "
        f"/dev/shm (SIGBUS), or a crash in a library. {advice}".rstrip()
    )


@contextlib.contextmanager
def read_by_workers(loader: DataLoader, name: str) -> Iterator[Iterator[Any]]:
    """The items of a loader.

    Raises:
        DataError: if the block failed because a worker died.
    """
    items = iter(loader)
    workers = list(getattr(items, "_workers", ()))
    try:
        yield items
    except BROKEN as error:
        dead = dead_workers(name, workers, [""] * len(workers))
        if dead:
            raise death(dead) from error
        raise

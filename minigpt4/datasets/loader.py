"""The worker processes that read for training, and what is logged while they are waited for."""

import atexit
import logging
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from minigpt4.common.stop_request import leave_signals_to_parent, signals_held
from minigpt4.datasets.workers import dead_workers
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)

# A loader that waits for its workers checks this often whether they are alive.
SECONDS_BETWEEN_LOOKS = 5
# After so long without a batch, it logs which workers it waits for.
SECONDS_WITHOUT_DATA = 300

NAME = "training data"


class TrainLoader:
    """Endless batches, read by worker processes that take turns.

    Args:
        batches: each process yields every n-th batch of it.
        workers: how many processes; with 0, this process reads.
        pin_memory: for a GPU.
    """

    def __init__(self, batches: IterableDataset, workers: int, pin_memory: bool) -> None:
        self._batches: Any = None
        self._given = 0
        self.workers: list[BaseProcess] = []
        self._last: list[str] = []  # the last sample from each
        self._loader = DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            timeout=SECONDS_BETWEEN_LOOKS if workers else 0,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator().manual_seed(0),  # else it draws from torch's global one
        )

    def start(self) -> None:
        """Start the workers, if that has not been done."""
        if self._batches is not None:
            return
        # A worker that dies of a signal before it can leave it to this process would end the run.
        with signals_held():
            self._batches = iter(self._loader)
        if self._loader.num_workers:
            self.workers = self._batches._workers
            # They ignore the SIGTERM with which Python would end them before it waits for them.
            atexit.register(_kill, self.workers)
            self._last = [""] * len(self.workers)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.start()
        batch = self._next()
        if self._last:  # they take turns
            self._last[self._given % len(self._last)] = batch.image_ids[-1]
        self._given += 1
        return batch

    def _next(self) -> Batch:
        """The next batch; logs a line where it waits for long."""
        seconds = 0
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                seconds += SECONDS_BETWEEN_LOOKS
                if seconds % SECONDS_WITHOUT_DATA == 0:
                    last = zip(self.workers, self._last, strict=True)
                    workers = [f"{worker.pid} (last sample: {key or 'none'})" for worker, key in last]
                    log.error("%s: no batch for %d s; waiting for the workers %s", NAME, seconds, workers)

    def close(self) -> None:
        """End the workers now. torch gives each of them five seconds; one that hangs is killed then."""
        if self.workers:
            # A traceback may hold the loader's frames, so there is no waiting for the garbage collector.
            self._batches._shutdown_workers()
        _kill(self.workers)

    def dead_workers(self) -> list[str]:
        """Describes the workers that are dead, or die within a second."""
        return dead_workers(NAME, self.workers, self._last)


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()
        worker.join()

"""The batches of one data set on one rank: who reads them, and how reading resumes."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader

from minigpt4.common.errors import reading
from minigpt4.common.stop_request import leave_signals_to_parent, signals_held
from minigpt4.datasets.collate import BatchStream, ReaderState
from minigpt4.datasets.stream import Reading, SampleStream
from minigpt4.datasets.workers import dead_workers
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)

# A loader that waits for its workers looks this often whether they are alive.
SECONDS_BETWEEN_LOOKS = 5
# After so long without a batch, it says whom it waits for.
SECONDS_WITHOUT_DATA = 300


class TrainLoader:
    """The endless batches of one data set on this rank, read by workers of its own.

    Args:
        dataset: what is read.
        batch_size, max_bad_fraction: as for `BatchStream`.
        seed: decides the order, and what the data set draws.
        rank, world_size: this process among all.
        workers: processes that read; with 0, this process reads, in the same order as with 1.
        pin_memory: for a GPU.
        prompts: as for `BatchStream`.
        name: of data set and split, for messages.
        state: an earlier loader's `state()`, to resume after the batches that it gave. If it was made by
            another number of readers, from another number of shards, or with another seed, it cannot be
            resumed: a new order begins, and `reordered` says why.
    """

    def __init__(
        self,
        dataset: SampleStream,
        batch_size: int,
        *,
        seed: int,
        max_bad_fraction: float,
        rank: int,
        world_size: int,
        workers: int,
        pin_memory: bool,
        prompts: PromptEncoder | None = None,
        name: str = "data",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._batches: Any = None
        self.workers: list[BaseProcess] = []
        self.last: list[str] = []  # the last sample that came from each
        self.dataset = dataset
        self.order = {
            "seed": seed,
            "shards or entries": dataset.size,
            "ranks": world_size,
            "workers": max(workers, 1),
        }
        self.reordered, self.new_orders = "", 0
        self.given, self.readers = 0, [ReaderState(n).to_dict() for n in range(self.order["workers"])]
        if state:
            self._resume(state)
        # Each new order has its own seed, so that it does not begin with the same samples.
        order_seed = seed + 1_000_003 * self.new_orders
        self.reading = Reading(training=True, seed=order_seed, reader=rank, readers=world_size)
        self.loader = DataLoader(
            BatchStream(
                dataset,
                batch_size,
                max_bad_fraction,
                reading=self.reading,
                resume=list(self.readers),
                first_worker=self.given % self.order["workers"],
                prompts=prompts,
            ),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            timeout=SECONDS_BETWEEN_LOOKS if workers else 0,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator().manual_seed(0),  # else it draws from torch's global one
        )

    def _resume(self, state: Mapping[str, Any]) -> None:
        with reading(self.name, failed="run.resume_ckpt_path: the position in the data set {} is damaged"):
            self._restore(state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        changes = [
            f"{key}: {state['order'].get(key)} before, {value} now"
            for key, value in self.order.items()
            if state["order"].get(key) != value
        ]
        self.reordered, self.new_orders = ", ".join(changes), state["new_orders"] + bool(changes)
        if not changes:
            self.given, self.readers = int(state["given"]), [_reader(one) for one in state["readers"]]
            if len(self.readers) != self.order["workers"]:
                raise ValueError(f"{len(self.readers)} readers of {self.order['workers']}")

    def start(self) -> None:
        """Start the workers, if that has not been done."""
        if self._batches is not None:
            return
        # A worker that dies of a signal before it can leave it to this process would end the run.
        with signals_held():
            self._batches = iter(self.loader)
        if self.loader.num_workers:
            self.workers = self._batches._workers
            self.last = [""] * len(self.workers)

    def __iter__(self) -> Iterator[Batch]:
        self.start()
        for number in count():
            batch = self._next(self._batches)
            if batch is None:
                return
            reader: ReaderState = batch.reader
            if self.last:  # they take turns
                self.last[number % len(self.last)] = batch.image_ids[-1]
            self.given += 1
            self.readers[reader.worker] = reader.to_dict()
            yield batch

    def _next(self, batches: Iterator) -> Any:
        """The next batch, None at the end; says so where it waits for long."""
        for looks in count(1):
            try:
                return next(batches, None)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):
                    raise
                if looks * SECONDS_BETWEEN_LOOKS % SECONDS_WITHOUT_DATA == 0:
                    seconds, last = looks * SECONDS_BETWEEN_LOOKS, zip(self.workers, self.last, strict=True)
                    workers = [f"{worker.pid} (last sample: {key or 'none'})" for worker, key in last]
                    log.error(
                        "%s: no batch for %d s; waiting for the workers %s", self.name, seconds, workers
                    )
        return None

    def close(self) -> None:
        """End the workers now. torch gives each of them five seconds; one that hangs is killed then."""
        if self.workers:
            # A traceback may hold the loader's frames, so there is no waiting for the garbage collector.
            self._batches._shutdown_workers()
        for worker in self.workers:
            worker.kill()
            worker.join()

    def dead_workers(self) -> list[str]:
        """Describes the workers that are dead, or die within a second."""
        return dead_workers(self.name, self.workers, self.last)

    def bad(self) -> Counter[str]:
        """What was skipped so far, by reason."""
        return sum((Counter(reader["bad"]) for reader in self.readers), Counter())

    def state(self) -> dict[str, Any]:
        """Where it stands after the batches that were taken from it; prefetched ones do not count."""
        return {
            "order": self.order,
            "new_orders": self.new_orders,
            "given": self.given,
            "readers": list(self.readers),
        }


def _reader(values: Mapping[str, Any]) -> dict[str, Any]:
    """A `ReaderState` from a checkpoint. Raises TypeError if it is not one."""
    state = ReaderState(**values)
    if not all(type(number) is int for number in (state.worker, state.good, *state.bad.values())):
        raise TypeError(f"a reader is {values}")
    return state.to_dict()

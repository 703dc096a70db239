"""Several datasets, one stream of batches, and where each of them stands."""

import copy
import logging
import multiprocessing
import random
import signal
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import count
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader

from minigpt4.common.errors import DataError
from minigpt4.common.stop_request import leave_signals_to_parent, signals_held
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.collate import BatchStream, ReaderState
from minigpt4.datasets.datasets.base_dataset import SampleStream
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)

# A loader that waits for its workers looks this often whether they are alive.
SECONDS_BETWEEN_LOOKS = 5
# After so long without a batch, it says whom it waits for.
SECONDS_WITHOUT_DATA = 300


def mix(
    loaders: Sequence[Iterable], ratios: Sequence[float], seed: int, start: int = 0
) -> Generator[Batch, None, None]:
    """Draw each batch from one of the loaders, with probabilities in proportion to `ratios`.

    The draw depends on the seed and the number of the batch alone, so every rank draws the same dataset
    for the same step and none waits for another.

    Args:
        loaders: each without end.
        ratios: one a loader.
        seed: the same on all ranks.
        start: how many batches were drawn already.

    Raises:
        DataError: if a loader ends.
    """
    iterators = [iter(loader) for loader in loaders]
    for number in count(start):
        (chosen,) = random.Random(f"{seed}/{number}").choices(range(len(iterators)), weights=ratios)
        try:
            yield next(iterators[chosen])
        except StopIteration:
            raise DataError(
                "a dataset that is trained on has ended; it must be a stream without end"
            ) from None


class TrainLoader:
    """The endless batches of one dataset on this rank, read by workers of its own.

    Args:
        dataset: is read as one to train on; it is not changed.
        batch_size, max_bad_fraction: as for `BatchStream`.
        rank, world_size: this process among all.
        workers: processes that read; 0 reads in this one, in the same order as 1.
        pin_memory: for a GPU.
        name: of data set and split, for messages.
        state: an earlier loader's `state()`, to go on after the batches that it gave. One that was made by
            another number of readers, from another number of shards, or under another seed cannot be gone
            on with: a new order begins, and `reordered` says why.
    """

    def __init__(
        self,
        dataset: SampleStream,
        batch_size: int,
        *,
        max_bad_fraction: float,
        rank: int,
        world_size: int,
        workers: int,
        pin_memory: bool,
        name: str = "data",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._batches: Any = None
        self.workers: list[BaseProcess] = []
        self.dataset = copy.copy(dataset)
        self.dataset.training = True
        self.dataset.rank, self.dataset.world_size = rank, world_size
        self.order = {
            "seed": dataset.seed,
            "shards or entries": dataset.size,
            "ranks": world_size,
            "workers": max(workers, 1),
        }
        self.reordered, self.new_orders = "", 0
        self.given, self.readers = 0, [ReaderState(n).to_dict() for n in range(self.order["workers"])]
        if state:
            self._resume(state)
        # Each new order has a seed of its own: it does not begin with what was trained on first.
        self.dataset.seed = dataset.seed + 1_000_003 * self.new_orders
        self.loader = DataLoader(
            BatchStream(
                self.dataset,
                batch_size,
                max_bad_fraction,
                resume=list(self.readers),
                first_worker=self.given % self.order["workers"],
            ),
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            timeout=SECONDS_BETWEEN_LOOKS if workers else 0,
            worker_init_fn=leave_signals_to_parent,
            # Else the loader draws from torch's own generator, and a resumed run from another place in it.
            generator=torch.Generator().manual_seed(0),
        )

    def _resume(self, state: Mapping[str, Any]) -> None:
        changes = [
            f"{key}: {state['order'][key]} before, {value} now"
            for key, value in self.order.items()
            if state["order"][key] != value
        ]
        self.reordered, self.new_orders = ", ".join(changes), state["new_orders"] + bool(changes)
        if not changes:
            self.given, self.readers = state["given"], list(state["readers"])

    def __iter__(self) -> Iterator[Batch]:
        others = multiprocessing.active_children()
        # A worker that dies of a signal before it can leave it to this process would end the run.
        with signals_held():
            self._batches = batches = iter(self.loader)
        self.workers = [child for child in multiprocessing.active_children() if child not in others]
        while (batch := self._next(batches)) is not None:
            reader: ReaderState = batch.reader
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
                    seconds, pids = looks * SECONDS_BETWEEN_LOOKS, [worker.pid for worker in self.workers]
                    log.error("%s: no batch for %d s; waiting for the workers %s", self.name, seconds, pids)
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
        """What has become of those that are no longer there."""
        return [
            f"{self.name}: worker {worker.pid} "
            + (f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}")
            for worker in self.workers
            if (code := worker.exitcode) is not None
        ]

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


class TrainStream:
    """All that is trained on, mixed, on this rank.

    Args:
        loaders: by name.
        ratios: one a loader.
        seed: of the mixing.
        drawn: how many batches were drawn already.
    """

    def __init__(
        self, loaders: Mapping[str, TrainLoader], ratios: Sequence[float], seed: int, drawn: int = 0
    ) -> None:
        self.loaders = loaders
        self.drawn = drawn
        self._batches = mix(list(loaders.values()), ratios, seed, drawn)

    @classmethod
    def of(
        cls, datasets: Datasets, splits: Sequence[str], seed: int, state: Mapping[str, Any], **reading: Any
    ) -> "TrainStream":
        """These splits of all datasets, from where a stream's `state()` left them.

        Args:
            datasets: name -> (builder, datasets by split).
            splits: names.
            seed: of the mixing.
            state: of an earlier stream, or `{"drawn": 0, "loaders": {}}`.
            reading: what else a `TrainLoader` takes.
        """
        loaders, ratios = {}, []
        for name, (builder, by_split) in datasets.items():
            for split in splits:
                key = f"{name}.{split}"
                resumed = state["loaders"].get(key)
                loaders[key] = TrainLoader(
                    by_split[split], builder.batch_size, name=key, state=resumed, **reading
                )
                ratios.append(builder.sample_ratio)
        return cls(loaders, ratios, seed, state["drawn"])

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self._batches)
        self.drawn += 1
        return batch

    def __enter__(self) -> "TrainStream":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the workers.

        Raises:
            DataError: if it was the death of a worker that ended the block.
        """
        dead = [worker for loader in self.loaders.values() for worker in loader.dead_workers()]
        self._batches.close()
        for loader in self.loaders.values():
            loader.close()
        if dead and isinstance(error, RuntimeError):
            raise DataError(
                f"{', '.join(dead)}. Too little memory (SIGKILL), too little of it in /dev/shm (SIGBUS), or "
                "a library that crashed? With run.num_workers: 0 the main process reads"
            ) from error

    def describe(self, resumed: Iterable[str]) -> None:
        """Log what a user should know about who reads what, and warn where a checkpoint cannot be followed.

        Args:
            resumed: the names in the checkpoint; empty without one.
        """
        for name, loader in self.loaders.items():
            readers = loader.order["ranks"] * loader.order["workers"]
            if loader.dataset.size < readers:
                log.info("%s: %d readers share %d shards or entries", name, readers, loader.dataset.size)
            if loader.reordered:
                log.warning(
                    "%s is read in a new order, not the one that the checkpoint would have gone on with (%s)",
                    name,
                    loader.reordered,
                )
        for name in sorted({*resumed} ^ {*self.loaders} if resumed else ()):
            known = "is new" if name in self.loaders else "is no longer trained on"
            log.warning("%s %s since the checkpoint: the batches are drawn in a new order", name, known)

    def bad(self) -> Counter[str]:
        """What was skipped so far on this rank, by reason."""
        return sum((loader.bad() for loader in self.loaders.values()), Counter())

    def state(self) -> dict[str, Any]:
        """What `run.resume_ckpt_path` needs to go on with the next batch."""
        return {"drawn": self.drawn, "loaders": {name: at.state() for name, at in self.loaders.items()}}

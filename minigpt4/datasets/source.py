"""One data set that is trained on: how this rank divides it over workers, and how reading resumes."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from minigpt4.common.errors import reading
from minigpt4.datasets.collate import BatchStream, ReaderState
from minigpt4.datasets.stream import Reading, SampleStream
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Batch

NO_WINDOW = {"windows": "none"}  # of an order


class TrainSource:
    """The endless batches of one data set on this rank, and where each worker stands in it.

    Args:
        dataset: what is read.
        batch_size: samples per batch.
        seed: decides the order, and what the data set draws.
        rank, world_size: this process among all.
        workers: processes that read; 0 reads in the same order as 1.
        sort_window: as for `BatchStream`.
        name: of data set and split, for messages.
        state: an earlier source's `state()`, to resume after the batches that were taken from it. If it was
            made by another number of readers, from another number of shards, or with another seed, it cannot
            be resumed: a new order begins, and `reordered` says why.

    Raises:
        CheckpointError: if `state` is damaged.
    """

    def __init__(
        self,
        dataset: SampleStream,
        batch_size: int,
        *,
        seed: int,
        rank: int,
        world_size: int,
        workers: int,
        sort_window: int = 1,
        name: str = "data",
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.name, self.dataset, self.batch_size = name, dataset, batch_size
        self.order = {
            "seed": seed,
            "shards or entries": dataset.size,
            "ranks": world_size,
            "workers": max(workers, 1),
            **NO_WINDOW,
        }
        self.sort_window = sort_window
        if sort_window > 1:
            self.order["windows"] = f"{sort_window} batches of {batch_size}"
        self.reordered, self.new_orders = "", 0
        self.given, self.readers = 0, [ReaderState(n).to_dict() for n in range(self.order["workers"])]
        if state:
            with reading(name, failed="run.resume_ckpt_path: the position in the data set {} is damaged"):
                self._restore(state)
        # Each new order has its own seed, so that it does not begin with the same samples.
        order_seed = seed + 1_000_003 * self.new_orders
        self.reading = Reading(training=True, seed=order_seed, reader=rank, readers=world_size)

    def _restore(self, state: Mapping[str, Any]) -> None:
        before = NO_WINDOW | state["order"]
        changes = [
            f"{key}: {before.get(key)} before, {value} now"
            for key, value in self.order.items()
            if before.get(key) != value
        ]
        self.reordered, self.new_orders = ", ".join(changes), state["new_orders"] + bool(changes)
        if not changes:
            self.given, self.readers = int(state["given"]), [_reader(one) for one in state["readers"]]
            if len(self.readers) != self.order["workers"]:
                raise ValueError(f"{len(self.readers)} readers of {self.order['workers']}")

    def batches(
        self, first_worker: int, max_bad_fraction: float, prompts: PromptEncoder | None
    ) -> BatchStream:
        """What each worker iterates over; the arguments are those of `BatchStream`."""
        return BatchStream(
            self.dataset,
            self.batch_size,
            max_bad_fraction,
            reading=self.reading,
            resume=list(self.readers),
            first_worker=first_worker,
            prompts=prompts,
            sort_window=self.sort_window,
        )

    def taken(self, batch: Batch) -> None:
        """A batch was taken: what comes after it is what a resumed run begins with."""
        reader: ReaderState = batch.reader
        self.given += 1
        self.readers[reader.worker] = reader.to_dict()

    def bad(self) -> Counter[str]:
        """What was skipped so far, by reason."""
        return sum((Counter(reader["bad"]) for reader in self.readers), Counter())

    def state(self) -> dict[str, Any]:
        """Where it stands after the batches that were taken; prefetched ones do not count."""
        return {
            "order": self.order,
            "new_orders": self.new_orders,
            "given": self.given,
            "readers": list(self.readers),
        }


def _reader(values: Mapping[str, Any]) -> dict[str, Any]:
    """A `ReaderState` from a checkpoint. Raises TypeError if it is not one."""
    state = ReaderState(**values)
    if not all(
        type(number) is int for number in (state.worker, state.good, state.given, *state.bad.values())
    ):
        raise TypeError(f"a reader is {values}")
    return state.to_dict()

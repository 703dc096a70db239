"""Several data sets mixed into one stream of batches that can be resumed."""

import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any

from torch.utils.data import IterableDataset

from minigpt4.common.errors import DataError
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.loader import TrainLoader
from minigpt4.datasets.source import TrainSource
from minigpt4.datasets.stream import this_worker
from minigpt4.datasets.workers import BROKEN, death
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)


def draw(ratios: Sequence[float], seed: int, number: int) -> int:
    """Which of several data sets a batch comes from, with probabilities in proportion to `ratios`.

    The draw depends on the seed and the number of the batch alone, so every rank draws the same data set for
    the same step and none waits for another.
    """
    (chosen,) = random.Random(f"{seed}/{number}").choices(range(len(ratios)), weights=ratios)
    return chosen


class MixedBatches(IterableDataset):
    """Batches of several data sets, mixed; each worker process yields those whose turn is its own.

    One set of workers reads all data sets: with a set for each, 25 data sets would start 25 times as many
    processes.

    Args:
        streams: of the data sets, endless.
        ratios: one per data set.
        seed: of the draws.
        start: number of the first batch.
    """

    def __init__(
        self, streams: Sequence[BatchStream], ratios: Sequence[float], seed: int, start: int
    ) -> None:
        super().__init__()
        self.streams, self.ratios, self.seed, self.start = streams, ratios, seed, start

    def __iter__(self) -> Iterator[Batch]:
        process, workers = this_worker()
        batches = [iter(stream) for stream in self.streams]
        for number in count(self.start + process, workers):
            try:
                yield next(batches[draw(self.ratios, self.seed, number)])
            except StopIteration:
                raise DataError("a training data set has ended; it must yield samples without end") from None


class TrainStream:
    """All that is trained on, mixed, on this rank.

    Args:
        sources: by name.
        ratios: one per source.
        seed: of the mixing.
        drawn: how many batches were drawn before.
        max_bad_fraction: as for `BatchStream`.
        workers: as for `TrainLoader`, and for the sources.
        pin_memory: as for `TrainLoader`.
        prompts: as for `BatchStream`.
    """

    def __init__(
        self,
        sources: Mapping[str, TrainSource],
        ratios: Sequence[float],
        seed: int,
        drawn: int = 0,
        *,
        max_bad_fraction: float,
        workers: int,
        pin_memory: bool,
        prompts: PromptEncoder | None = None,
    ) -> None:
        self.sources = sources
        self.ratios, self.seed, self.drawn = ratios, seed, drawn
        first_worker = drawn % max(workers, 1)
        streams = [one.batches(first_worker, max_bad_fraction, prompts) for one in sources.values()]
        self.loader = TrainLoader(MixedBatches(streams, ratios, seed, drawn), workers, pin_memory)

    @classmethod
    def of(
        cls,
        datasets: Datasets,
        splits: Sequence[str],
        seed: int,
        state: Mapping[str, Any],
        *,
        rank: int,
        world_size: int,
        workers: int,
        sort_window: int = 1,
        **options: Any,
    ) -> "TrainStream":
        """These splits of all data sets, from where a stream's `state()` left them.

        Args:
            datasets: name -> (builder, data sets by split).
            splits: names.
            seed: of the mixing, and of each data set's order and draws.
            state: of an earlier stream, or `{"drawn": 0, "loaders": {}}`.
            rank, world_size: as for `TrainSource`.
            workers: as for `TrainLoader`.
            sort_window: as for `BatchStream`.
            options: what else a `TrainStream` takes.
        """
        sources, ratios = {}, []
        for name, (builder, by_split) in datasets.items():
            for split in splits:
                key = f"{name}.{split}"
                sources[key] = TrainSource(
                    by_split[split],
                    builder.batch_size,
                    seed=seed,
                    rank=rank,
                    world_size=world_size,
                    workers=workers,
                    sort_window=sort_window,
                    name=key,
                    state=state["loaders"].get(key),
                )
                ratios.append(builder.sample_ratio)
        return cls(sources, ratios, seed, state["drawn"], workers=workers, **options)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self.loader)
        list(self.sources.values())[draw(self.ratios, self.seed, self.drawn)].taken(batch)
        self.drawn += 1
        return batch

    def __enter__(self) -> "TrainStream":
        # Here, and not when the first batch is awaited: a request to stop may interrupt that.
        self.loader.start()
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
        dead = self.loader.dead_workers() if isinstance(error, BROKEN) else []
        self.loader.close()
        if dead:
            raise death(dead, "With run.num_workers: 0 the main process reads") from error

    def describe(self, resumed: Iterable[str]) -> None:
        """Log how shards are shared, and warn where the checkpoint's order cannot be resumed.

        Args:
            resumed: the names in the checkpoint; empty without one.
        """
        for name, source in self.sources.items():
            readers = source.order["ranks"] * source.order["workers"]
            if source.dataset.size < readers:
                log.info("%s: %d readers share %d shards or entries", name, readers, source.dataset.size)
            if source.reordered:
                log.warning(
                    "%s is read in a new order, since the checkpoint's cannot be resumed (%s)",
                    name,
                    source.reordered,
                )
        for name in sorted({*resumed} ^ {*self.sources} if resumed else ()):
            change = "was added" if name in self.sources else "was removed"
            log.warning("%s %s since the checkpoint: the batches are drawn in a new order", name, change)

    def bad(self) -> Counter[str]:
        """What was skipped so far on this rank, by reason."""
        return sum((source.bad() for source in self.sources.values()), Counter())

    def state(self) -> dict[str, Any]:
        """What `run.resume_ckpt_path` needs to resume with the next batch."""
        return {"drawn": self.drawn, "loaders": {name: one.state() for name, one in self.sources.items()}}

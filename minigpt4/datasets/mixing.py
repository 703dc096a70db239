"""Several data sets mixed into one stream of batches that can be resumed."""

import logging
import random
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Any

from minigpt4.common.errors import DataError
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.loader import TrainLoader
from minigpt4.datasets.workers import BROKEN, death
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)


def mix(
    loaders: Sequence[Iterable[Batch]], ratios: Sequence[float], seed: int, start: int = 0
) -> Generator[Batch, None, None]:
    """Draw each batch from one of the loaders, with probabilities in proportion to `ratios`.

    The draw depends on the seed and the number of the batch alone, so every rank draws the same data set
    for the same step and none waits for another.

    Args:
        loaders: endless.
        ratios: one per loader.
        seed: the same on all ranks.
        start: how many batches were drawn before.

    Raises:
        DataError: if a loader ends.
    """
    iterators = [iter(loader) for loader in loaders]
    for number in count(start):
        (chosen,) = random.Random(f"{seed}/{number}").choices(range(len(iterators)), weights=ratios)
        try:
            yield next(iterators[chosen])
        except StopIteration:
            raise DataError("a data set that is trained on has ended; it must be read without end") from None


class TrainStream:
    """All that is trained on, mixed, on this rank.

    Args:
        loaders: by name.
        ratios: one per loader.
        seed: of the mixing.
        drawn: how many batches were drawn before.
    """

    def __init__(
        self, loaders: Mapping[str, TrainLoader], ratios: Sequence[float], seed: int, drawn: int = 0
    ) -> None:
        self.loaders = loaders
        self.drawn = drawn
        self._batches = mix(list(loaders.values()), ratios, seed, drawn)

    @classmethod
    def of(
        cls, datasets: Datasets, splits: Sequence[str], seed: int, state: Mapping[str, Any], **options: Any
    ) -> "TrainStream":
        """These splits of all data sets, from where a stream's `state()` left them.

        Args:
            datasets: name -> (builder, data sets by split).
            splits: names.
            seed: of the mixing, and of each data set's order and draws.
            state: of an earlier stream, or `{"drawn": 0, "loaders": {}}`.
            options: what else a `TrainLoader` takes.
        """
        loaders, ratios = {}, []
        for name, (builder, by_split) in datasets.items():
            for split in splits:
                key = f"{name}.{split}"
                resumed = state["loaders"].get(key)
                loaders[key] = TrainLoader(
                    by_split[split], builder.batch_size, seed=seed, name=key, state=resumed, **options
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
        # Here, and not when the first batch is awaited: a request to stop may interrupt that.
        for loader in self.loaders.values():
            loader.start()
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
        broken = isinstance(error, BROKEN)
        dead = [worker for loader in self.loaders.values() if broken for worker in loader.dead_workers()]
        self._batches.close()
        for loader in self.loaders.values():
            loader.close()
        if dead:
            raise death(dead, "With run.num_workers: 0 the main process reads") from error

    def describe(self, resumed: Iterable[str]) -> None:
        """Log how shards are shared, and warn where the checkpoint's order cannot be resumed.

        Args:
            resumed: the names in the checkpoint; empty without one.
        """
        for name, loader in self.loaders.items():
            readers = loader.order["ranks"] * loader.order["workers"]
            if loader.dataset.size < readers:
                log.info("%s: %d readers share %d shards or entries", name, readers, loader.dataset.size)
            if loader.reordered:
                log.warning(
                    "%s is read in a new order, since the checkpoint's cannot be resumed (%s)",
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
        """What `run.resume_ckpt_path` needs to resume with the next batch."""
        return {"drawn": self.drawn, "loaders": {name: at.state() for name, at in self.loaders.items()}}

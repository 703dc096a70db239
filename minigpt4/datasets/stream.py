"""How data sets are read: one sample after the other, divided over readers, from a position on.

A data set is a stream. Iterated, it yields samples and, where something is wrong, a `Skipped` with the
reason: one broken image never ends a run, and nothing is dropped without being counted.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch.utils.data import get_worker_info

from minigpt4.common.errors import BadSample
from minigpt4.prompts.dialogue import check_text
from minigpt4.prompts.sample import Sample

# What a data set's own code may raise for an entry that is not as it expects: no sample ends a run. The entry
# is counted as skipped; where there are too many, `run.max_bad_fraction` ends the run with the reasons.
UNUSABLE = Exception
LONGEST_REASON = 100


@dataclass(frozen=True)
class Skipped:
    """A sample or a shard that was skipped, and why."""

    reason: str
    where: str

    @classmethod
    def because(cls, error: Exception, where: str) -> "Skipped":
        """What an exception makes of the entry at `where`."""
        reason = str(error) if isinstance(error, BadSample) else f"{type(error).__name__}: {error}"
        return cls(" ".join(reason.split())[:LONGEST_REASON], where)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a data set is read, and which part of it.

    Attributes:
        training: without end, in a new order each epoch; else everything once and in order.
        seed: decides the order, and what is drawn for each sample.
        reader, readers: the number of this reader, and how many together read each sample of an epoch once.
        position: one that was given with an item, to resume after it (in training only); None: from the
            beginning. What lies before is not decoded again.
    """

    training: bool = False
    seed: int = 0
    reader: int = 0
    readers: int = 1
    position: Any = None

    def share(self, number: int, count: int) -> "Reading":
        """The part of process `number`, where `count` of them divide this reading."""
        return replace(self, reader=self.reader * count + number, readers=self.readers * count)

    def rng(self, epoch: int, entry: object) -> random.Random:
        """What a sample's draws come from: they depend on seed, epoch and entry alone, not on who reads."""
        return random.Random(f"{self.seed}/{epoch}/{entry}")


class SampleStream(ABC):
    """What can be read: training and evaluation use nothing else of a data set."""

    UNIT: ClassVar[str] = "sample"  # what `size` counts

    @property
    @abstractmethod
    def size(self) -> int:
        """How many shards or entries an epoch has; positions hold for this number only."""

    @abstractmethod
    def read(self, reading: Reading) -> Iterator[tuple[Sample | Skipped, Any]]:
        """All that is the reader's, each item with the position after it."""


def this_worker() -> tuple[int, int]:
    """The number of this process among the loader's workers, and how many there are."""
    worker = get_worker_info()
    return (worker.id, worker.num_workers) if worker else (0, 1)


def clean_text(text: Any, text_processor: Callable[[str], str], name: str) -> str:
    """A text after its processor. Raises BadSample, calling it `name`, if it is none, or nothing is left."""
    if not isinstance(text, str):
        raise BadSample(f"{name} is not text")
    check_text(text)
    processed = text_processor(text)
    if not text.strip() or not processed.strip():
        raise BadSample(f"empty {name}")
    return processed


def clean_caption(caption: Any, text_processor: Callable[[str], str] = str) -> str:
    """A caption after its processor. Raises BadSample as `clean_text`."""
    return clean_text(caption, text_processor, "caption")

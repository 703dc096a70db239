"""The order in which several readers share shards without end, and how one of them resumes.

An epoch is all shards in an order that the seed and the epoch's number decide. (It is one reading of the
data, whatever `run.iters_per_epoch` says.) The epochs follow each other in one endless row, of which each
reader takes every `readers`-th part: no reader runs out, none gets more than another, and together they read
each sample of an epoch once. Where there are fewer shards than readers, a part is every n-th sample of a
shard. Within an epoch a reader's samples go through a shuffle buffer, which is emptied before the next epoch
begins. It holds SHUFFLE_BUFFER samples, or as few as fit into BUFFER_BYTES.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from minigpt4.common import errors
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.datasets.stream import Reading, Skipped

SHUFFLE_BUFFER = 1000
BUFFER_BYTES = 256 * 2**20
MAX_COUNT = 10**9  # of the epochs or samples in a position


class ShardPart(NamedTuple):
    """What is read in one go: the samples `part`, `part + parts`, ... of a shard."""

    shard: int
    part: int
    parts: int


class ReaderPosition(NamedTuple):
    """Where a reader stands: all that is needed to resume. (A checkpoint holds it as a bare tuple.)

    Attributes:
        epoch: its number.
        drawn: items that came out of this epoch so far, bad ones included.
        counts: items in each of the parts that were read to their end in this epoch.
        shrunk: how the shuffle buffer shrank in this epoch: after how many items, to what capacity.
    """

    epoch: int = 0
    drawn: int = 0
    counts: tuple[int, ...] = ()
    shrunk: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, values: Any) -> "ReaderPosition":
        """A position from a checkpoint. Raises CheckpointError if it is not one."""
        with errors.reading("the shards", failed="run.resume_ckpt_path: the position in {} is damaged"):
            position = cls(*values)
            shrunk = [number for came, capacity in position.shrunk for number in (came, capacity)]
            for number in (position.epoch, position.drawn, *position.counts, *shrunk):
                if type(number) is not int or not 0 <= number < MAX_COUNT:
                    raise ValueError(f"{number!r} is not a number of epochs or samples")
            return position


class _Unread(NamedTuple):
    """An item known by its number in a part, not read yet."""

    part: int
    number: int


ReadPart = Callable[[ShardPart], Iterator[Any]]


def parts_of_epoch(shards: int, epoch: int, reading: Reading) -> list[ShardPart]:
    """The parts of an epoch that are the reader's, in its order; there is at least one."""
    parts = math.ceil(reading.readers / shards)
    everything = [ShardPart(shard, part, parts) for shard in range(shards) for part in range(parts)]
    random.Random(f"{reading.seed}/{epoch}").shuffle(everything)
    first = (reading.reader - epoch * len(everything)) % reading.readers
    return everything[first :: reading.readers]


def read_epochs(read: ReadPart, shards: int, reading: Reading) -> Iterator[tuple[Any, ReaderPosition]]:
    """All items of a reader from its position on, each with the position after it. It never ends.

    Resuming costs no more than reading what lay in the shuffle buffer and the part that was begun: the
    epochs and parts before are counted off, not read.
    """
    position = ReaderPosition() if reading.position is None else ReaderPosition.of(reading.position)
    while True:
        rng = random.Random(f"{reading.seed}/{position.epoch}/{reading.reader}/{reading.readers}")
        parts = parts_of_epoch(shards, position.epoch, reading)
        yield from _read_epoch(read, parts, rng, position)
        position = ReaderPosition(position.epoch + 1)


def _read_epoch(
    read: ReadPart, parts: list[ShardPart], rng: random.Random, position: ReaderPosition
) -> Iterator[tuple[Any, ReaderPosition]]:
    counts, buffer = list(position.counts), _ShuffleBuffer(rng, position.shrunk)
    items = buffer.shuffled(_items(read, parts, counts))
    for drawn, item in enumerate(items, 1):
        if drawn > position.drawn:
            yield item, ReaderPosition(position.epoch, drawn, tuple(counts), tuple(buffer.shrunk.items()))
        elif drawn == position.drawn:
            _fill_in(buffer.items, read, parts)
            buffer.bytes = sum(map(_bytes_of, buffer.items))


def _items(read: ReadPart, parts: list[ShardPart], counts: list[int]) -> Iterator[Any]:
    """One part after the other. Those counted already are named, not read; new counts are added."""
    for part, count in enumerate(list(counts)):
        yield from (_Unread(part, number) for number in range(count))
    for part in parts[len(counts) :]:
        count = 0
        for item in read(part):
            count += 1
            yield item
        counts.append(count)


class _ShuffleBuffer:
    """Draws one item for each that comes in, once it is full, and at the end those that are left.

    Reading is cheap compared with decoding, so it is full before the first item is drawn: all orders of what
    fits into it are equally likely. An item that does not fit into its bytes makes it smaller for the rest of
    the epoch; this is noted, because a resumed reader does not read again what came before.

    Args:
        rng: decides what is drawn.
        shrunk: of an earlier reader's `ReaderPosition`.
    """

    def __init__(self, rng: random.Random, shrunk: Iterable[tuple[int, int]]) -> None:
        self._rng = rng
        self.items: list[Any] = []
        self.bytes = self._came = 0
        self._capacity, self.shrunk = SHUFFLE_BUFFER, dict(shrunk)

    def shuffled(self, items: Iterator[Any]) -> Iterator[Any]:
        for item in items:
            self._came += 1
            self.items.append(item)
            self.bytes += _bytes_of(item)
            self._capacity = self.shrunk.get(self._came, self._capacity)
            while len(self.items) >= self._capacity or self.bytes > BUFFER_BYTES:
                shrinks = len(self.items) < self._capacity
                drawn = self._draw()
                if shrinks:
                    self._capacity = self.shrunk[self._came] = len(self.items) + 1
                yield drawn
        while self.items:
            yield self._draw()

    def _draw(self) -> Any:
        slot = self._rng.randrange(len(self.items))
        self.items[slot], self.items[-1] = self.items[-1], self.items[slot]
        item = self.items.pop()
        self.bytes -= _bytes_of(item)
        return item


def _bytes_of(item: Any) -> int:
    return sum(map(len, item.files.values())) if isinstance(item, RawSample) else 0


def _fill_in(buffer: list[Any], read: ReadPart, parts: list[ShardPart]) -> None:
    """Read what the buffer only names, each part no further than needed."""
    wanted: dict[int, dict[int, int]] = {}
    for slot, item in enumerate(buffer):
        if isinstance(item, _Unread):
            wanted.setdefault(item.part, {})[item.number] = slot
    for part, slots in wanted.items():
        for number, item in enumerate(read(parts[part])):
            if number in slots:
                buffer[slots.pop(number)] = item
            if not slots:
                break
        for slot in slots.values():
            buffer[slot] = Skipped("shard changed", f"shard {parts[part].shard}")

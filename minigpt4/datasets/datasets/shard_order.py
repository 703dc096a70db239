"""The order in which several readers share shards for ever, and how a reader finds its place again.

A pass is all shards in an order that the seed and its number decide. The passes follow each other in one
endless row, of which each reader takes every `readers`-th piece: no reader runs out, none gets more than
another, and together they read each sample of a pass once. Where there are fewer shards than readers, a
piece is every n-th sample of a shard. Within a pass a reader's samples go through a shuffle buffer, which is
emptied before the next pass begins.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from minigpt4.datasets.datasets.base_dataset import Bad

SHUFFLE_BUFFER = 1000


class Piece(NamedTuple):
    """What is read at one go: the samples `part`, `part + parts`, ... of a shard."""

    shard: int
    part: int
    parts: int


class Position(NamedTuple):
    """Where a reader stands: all that is needed to go on, and it names no sample. Given out as a bare
    tuple, which a checkpoint may hold.

    Attributes:
        number: of the pass.
        drawn: items that came out of this pass so far, bad ones too.
        counts: items in each of the pieces that were read to their end in this pass.
    """

    number: int = 0
    drawn: int = 0
    counts: tuple[int, ...] = ()


class _Later(NamedTuple):
    """An item known by its place alone, not read yet."""

    place: int
    number: int


ReadPiece = Callable[[Piece], Iterator[Any]]


def pieces_of(shards: int, number: int, seed: int, reader: int, readers: int) -> list[Piece]:
    """The pieces of pass `number` that are this reader's, in its order; there is at least one."""
    parts = math.ceil(readers / shards)
    pieces = [Piece(shard, part, parts) for shard in range(shards) for part in range(parts)]
    random.Random(f"{seed}/{number}").shuffle(pieces)
    return pieces[(reader - number * len(pieces)) % readers :: readers]


def read_passes(
    read: ReadPiece, shards: int, seed: int, reader: int, readers: int, position: Position
) -> Iterator[tuple[Any, tuple]]:
    """All items of one reader from `position` on, each with the position after it. It never ends.

    Going on costs no more than reading what lay in the shuffle buffer and the piece that was begun: the
    passes and pieces before are counted off, not read.
    """
    number, skip, counts = position
    while True:
        rng = random.Random(f"{seed}/{number}/{reader}/{readers}")
        yield from _read_pass(
            read, pieces_of(shards, number, seed, reader, readers), rng, Position(number, skip, counts)
        )
        number, skip, counts = number + 1, 0, ()


def _read_pass(
    read: ReadPiece, pieces: list[Piece], rng: random.Random, position: Position
) -> Iterator[tuple[Any, tuple]]:
    counts, buffer = list(position.counts), []
    items = _shuffled(_items(read, pieces, counts), rng, buffer)
    for drawn, item in enumerate(items, 1):
        if drawn > position.drawn:
            yield item, (position.number, drawn, tuple(counts))
        elif drawn == position.drawn:
            _fetch(buffer, read, pieces)


def _items(read: ReadPiece, pieces: list[Piece], counts: list[int]) -> Iterator[Any]:
    """The pieces one after the other. Those counted already are named, not read; new counts are added."""
    for place, count in enumerate(list(counts)):
        yield from (_Later(place, number) for number in range(count))
    for piece in pieces[len(counts) :]:
        count = 0
        for item in read(piece):
            count += 1
            yield item
        counts.append(count)


def _shuffled(items: Iterator[Any], rng: random.Random, buffer: list[Any]) -> Iterator[Any]:
    """Fill the buffer, then draw one of it for each that comes in, then what is left.

    Reading is cheap beside decoding, so even the first item may be any of the buffer's: what fits into it
    comes in an order in which all are alike.
    """
    for item in items:
        buffer.append(item)
        if len(buffer) == SHUFFLE_BUFFER:
            yield _draw(buffer, rng)
    while buffer:
        yield _draw(buffer, rng)


def _draw(buffer: list[Any], rng: random.Random) -> Any:
    place = rng.randrange(len(buffer))
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()


def _fetch(buffer: list[Any], read: ReadPiece, pieces: list[Piece]) -> None:
    """Read what the buffer only names, no piece further than needed."""
    wanted: dict[int, dict[int, int]] = {}
    for slot, item in enumerate(buffer):
        if isinstance(item, _Later):
            wanted.setdefault(item.place, {})[item.number] = slot
    for place, slots in wanted.items():
        for number, item in enumerate(read(pieces[place])):
            if number in slots:
                buffer[slots.pop(number)] = item
            if not slots:
                break
        for slot in slots.values():
            buffer[slot] = Bad("shard changed", f"shard {pieces[place].shard}")

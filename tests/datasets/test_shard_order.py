"""The shuffle buffer: how many samples and bytes it holds, and resuming where it has shrunk."""

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from minigpt4.common.errors import CheckpointError
from minigpt4.datasets.datasets import shard_order
from minigpt4.datasets.datasets.shard_order import ReaderPosition, ShardPart, read_epochs
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.datasets.stream import Reading, Skipped

SHARDS, EACH, KB = 4, 30, 1000


def read_part(part: ShardPart) -> Iterator[RawSample | Skipped]:
    """Samples of 1 to 20 KB; one in ten is bad."""
    for number in range(EACH):
        key = f"{part.shard}/{number}"
        size = random.Random(key).randint(1, 20) * KB
        yield Skipped("bad", key) if number % 10 == 9 else RawSample(key, "", {"jpg": bytes(size)})


def drawn(count: int, position: Any = None) -> list[tuple[str, tuple]]:
    items = read_epochs(read_part, SHARDS, Reading(training=True, position=position))
    return [(getattr(item, "key", "bad"), tuple(after)) for item, after in islice(items, count)]


@pytest.mark.parametrize("limit", [60 * KB, 150 * KB])
def test_the_buffer_is_bounded_in_bytes(monkeypatch, limit) -> None:
    held = []
    draw = shard_order._ShuffleBuffer._draw

    def watched(buffer: Any) -> Any:
        item = draw(buffer)
        held.append((len(buffer.items), buffer.bytes))
        return item

    monkeypatch.setattr(shard_order._ShuffleBuffer, "_draw", watched)
    monkeypatch.setattr(shard_order, "BUFFER_BYTES", limit)
    keys = [key for key, _ in drawn(SHARDS * EACH)]
    assert sorted(keys) == sorted(key for key, _ in drawn(SHARDS * EACH)) and len(set(keys)) == 1 + 108
    assert 0.6 * limit < max(size for _, size in held) <= limit + 20 * KB
    most = max(count for count, _ in held)
    assert 3 < most < 4 * limit / (10 * KB)


def test_small_samples_fill_the_buffer_by_their_number(monkeypatch) -> None:
    monkeypatch.setattr(shard_order, "SHUFFLE_BUFFER", 8)
    assert all(shrunk == () for _, (_, _, _, shrunk) in drawn(200))


@pytest.mark.parametrize("limit", [30 * KB, 100 * KB])
def test_a_reader_resumes_where_its_buffer_has_shrunk(monkeypatch, limit) -> None:
    monkeypatch.setattr(shard_order, "BUFFER_BYTES", limit)
    monkeypatch.setattr(shard_order, "SHUFFLE_BUFFER", 40)
    count = 2 * SHARDS * EACH + 20
    whole = drawn(count)
    assert max(len(after[3]) for _, after in whole) >= 2
    for stop in range(1, count):
        assert drawn(min(count - stop, 50), whole[stop - 1][1]) == whole[stop : stop + 50]


def test_positions_of_older_checkpoints_and_damaged_ones() -> None:
    assert ReaderPosition.of((1, 5, (30, 30))) == ReaderPosition(1, 5, (30, 30), ())
    for damaged in (
        (0, 0, (), (3,)),
        (0, 0, (), ((3, "a"),)),
        (0, 0, (), ((3, -1),)),
        (0, 0, (), ((1, 2, 3),)),
    ):
        with pytest.raises(CheckpointError, match="the position in the shards is damaged"):
            ReaderPosition.of(damaged)

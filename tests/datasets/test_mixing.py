"""Several data sets mixed: the ratios hold, all ranks draw the same, and the draws can be resumed."""

import json
from itertools import count, islice
from typing import Any

import pytest

from minigpt4.common.errors import DataError
from minigpt4.datasets.mixing import TrainStream, draw
from minigpt4.datasets.source import TrainSource
from minigpt4.datasets.stream import Reading, SampleStream
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample


class Counting(SampleStream):
    """Endless samples, whose ids say which data set, reader and place they come from."""

    size = 7

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, reading: Reading) -> Any:
        for place in count(reading.position or 0):
            text = f"{self.name}/{reading.reader}/{place}"
            yield Sample(dialogue=Dialogue.prompted("", text), image_id=text), place + 1


def mixed(
    *, seed: int = 0, workers: int = 0, state: dict[str, Any] | None = None, **rank: int
) -> TrainStream:
    state = state or {"drawn": 0, "loaders": {}}
    where = {"rank": 0, "world_size": 1, "workers": workers} | rank
    sources = {
        name: TrainSource(Counting(name), 2, seed=seed, name=name, state=state["loaders"].get(name), **where)
        for name in ("few", "many")
    }
    how = {"max_bad_fraction": 1.0, "pin_memory": False, "workers": workers}
    return TrainStream(sources, [1, 3], seed, state["drawn"], **how)


def ids(batches: Any, number: int) -> list[list[str]]:
    return [batch.image_ids for batch in islice(batches, number)]


def test_draw_is_in_proportion_and_the_same_again() -> None:
    """10,000 draws at 1:3; five standard deviations are 5 * sqrt(10000 * 0.25 * 0.75) = 217."""
    draws = [draw([1, 3], 0, number) for number in range(10_000)]
    assert abs(draws.count(0) - 2500) < 217
    assert draws != [draw([1, 3], 1, number) for number in range(10_000)]


def test_train_stream_gives_all_ranks_the_same_data_set() -> None:
    streams = [mixed(rank=rank, world_size=2) for rank in (0, 1)]
    taken = [[batch.image_ids[0] for batch in islice(stream, 2000)] for stream in streams]
    names = [[one.split("/")[0] for one in rank] for rank in taken]
    assert names[0] == names[1]
    assert {one.split("/")[1] for one in taken[1]} == {"1"}
    for name, source in streams[0].sources.items():
        assert source.given == names[0].count(name)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_train_stream_reads_all_data_sets_with_one_set_of_workers() -> None:
    """Two workers in all; each reads its half of every data set, and none of the other's."""
    with mixed(workers=2) as stream:
        assert len(stream.loader.workers) == 2
        taken = ids(stream, 60)
    for number, batch in enumerate(taken):
        assert {one.split("/")[1] for one in batch} == {str(number % 2)}
    for name in ("few", "many"):
        for reader in ("0", "1"):
            places = [one.split("/") for batch in taken for one in batch]
            mine = [int(place) for which, by, place in places if (which, by) == (name, reader)]
            assert mine == list(range(len(mine))) and mine


@pytest.mark.parametrize("workers", [0, pytest.param(3, marks=pytest.mark.integration)])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_train_stream_resumes_with_the_next_batch(workers) -> None:
    with mixed(workers=workers) as whole:
        states, taken = [], []
        for batch in islice(whole, 40):
            states.append(json.loads(json.dumps(whole.state())))
            taken.append(batch.image_ids)
    for step in (0, 4, 17, 29):
        with mixed(workers=workers, state=states[step]) as resumed:
            assert ids(resumed, 8) == taken[step + 1 : step + 9]


def test_train_stream_refuses_a_data_set_that_ends(monkeypatch) -> None:
    def read(self: Counting, reading: Reading) -> Any:
        yield Sample(dialogue=Dialogue.prompted("", "once")), 1

    monkeypatch.setattr(Counting, "read", read)
    with pytest.raises(DataError, match="without end"):
        list(mixed())

"""Several data sets mixed: the ratios hold, all ranks draw the same, and the draws can be resumed."""

from itertools import count, islice, repeat

import pytest

from minigpt4.common.errors import DataError
from minigpt4.datasets.loader import TrainLoader
from minigpt4.datasets.mixing import TrainStream, mix
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from tests.support.shards import stream


def test_mix_draws_in_proportion_and_the_same_again() -> None:
    """10,000 draws at 1:3; five standard deviations are 5 * sqrt(10000 * 0.25 * 0.75) = 217."""
    loaders = [["few"] * 10_000, ["many"] * 10_000]
    draws = list(islice(mix(loaders, [1, 3], seed=0), 10_000))
    assert abs(draws.count("few") - 2500) < 217
    assert draws == list(islice(mix(loaders, [1, 3], seed=0), 10_000))
    assert draws != list(islice(mix(loaders, [1, 3], seed=1), 10_000))


def test_mix_goes_on_where_it_stopped_and_wants_streams_without_end() -> None:
    loaders = [repeat("few"), repeat("many")]
    draws = list(islice(mix(loaders, [1, 3], seed=0), 300))
    assert draws[200:] == list(islice(mix(loaders, [1, 3], seed=0, start=200), 100))
    with pytest.raises(DataError, match="must be read without end"):
        list(mix([[1, 2, 3]], [1], seed=0))


def test_ratios_hold_and_ranks_draw_the_same_dataset(tmp_path) -> None:
    """10,000 draws at 1:3 from a stream and a folder; five standard deviations are 217."""
    draws = []
    for rank in (0, 1):
        dataset = stream([])
        few, many = (Sample(dialogue=Dialogue.prompted("", text)) for text in ("few", "many"))
        dataset.read = lambda *_, few=few: ((few, None) for _ in count())
        other = stream([])
        other.read = lambda *_, many=many: ((many, None) for _ in count())
        options = {"seed": 0, "max_bad_fraction": 1.0, "pin_memory": False}
        options |= {"workers": 0, "rank": rank, "world_size": 2}
        loaders = {"a": TrainLoader(dataset, 4, **options), "b": TrainLoader(other, 4, **options)}
        mixed = TrainStream(loaders, [1, 3], seed=5)
        draws.append([batch.answers[0] for batch in islice(mixed, 10_000)])
        assert mixed.drawn == sum(one.given for one in loaders.values()) == 10_000
    assert draws[0] == draws[1] and abs(draws[0].count("few") - 2500) < 217

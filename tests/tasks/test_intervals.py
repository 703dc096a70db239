"""95 % intervals: Wilson's by hand, clusters, and what is the same on every call."""

import numpy as np
import pytest

from minigpt4.tasks.intervals import interval, intervals_of_scores, resampled
from minigpt4.tasks.records import Record


def test_interval_of_independent_scores_is_wilsons() -> None:
    """Brown, Cai and DasGupta 2001 compute 8 of 10 as 0.490 to 0.943."""
    bounds = interval([1.0] * 8 + [0.0] * 2, [str(n) for n in range(10)])
    assert bounds == pytest.approx((0.490, 0.943), abs=1e-3)


@pytest.mark.parametrize(("score", "bounds"), [(1.0, (0.7225, 1.0)), (0.0, (0.0, 0.2775))])
def test_interval_of_equal_scores_has_a_width(score, bounds) -> None:
    """All of ten right: at least 0.7225, the rule of Wilson's interval."""
    assert interval([score] * 10, [str(n) for n in range(10)]) == pytest.approx(bounds, abs=1e-4)


def test_interval_of_repeated_questions_is_that_of_the_pictures() -> None:
    """Ten questions about each of 20 pictures, all of a picture right or wrong together, are 20 samples."""
    by_picture = [1.0] * 12 + [0.0] * 8
    alone = interval(by_picture, [str(n) for n in range(20)])
    repeated = interval(np.repeat(by_picture, 10), np.repeat(np.arange(20), 10).astype(str))
    assert repeated == pytest.approx(alone, abs=0.01)
    spread = interval(np.repeat(by_picture, 10), [str(n) for n in range(200)])
    assert spread[1] - spread[0] < 0.5 * (repeated[1] - repeated[0])


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 draws of 60 pictures with 5 questions each; the truth is 0.7."""
    draws = np.random.default_rng(1)
    clusters = np.repeat(np.arange(60), 5).astype(str)
    inside = 0
    for _ in range(400):
        chances = draws.beta(1.4, 0.6, size=60)  # mean 0.7, different between pictures
        low, high = interval((draws.random((60, 5)) < chances[:, None]).ravel().astype(float), clusters)
        inside += low <= 0.7 <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_interval_of_one_picture() -> None:
    low, high = interval([1.0, 0.0], ["a", "a"])
    assert low < 0.2 and high > 0.8


def test_intervals_of_scores_are_named_like_their_means() -> None:
    records = [
        Record(image_id=str(n), truth="", group="ab"[n % 2], scores={"accuracy": float(n > 3), "cider": 3.0})
        for n in range(10)
    ]
    bounds = intervals_of_scores(records)
    assert set(bounds) == {"accuracy", "accuracy_a", "accuracy_b"}
    assert bounds["accuracy"] == interval([float(n > 3) for n in range(10)], [str(n) for n in range(10)])


def test_resampled_interval_repeats_and_holds_the_middle() -> None:
    records = [Record(image_id=str(n // 2), truth="", scores={"x": float(n % 3 == 0)}) for n in range(60)]

    def mean(drawn) -> float:
        return sum(record.scores["x"] for record in drawn) / len(drawn)

    low, high = resampled(records, mean)
    assert (low, high) == resampled(records, mean)
    assert low < mean(records) < high and high - low < 0.35

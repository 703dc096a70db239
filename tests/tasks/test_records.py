"""Records and metrics: what they hold, what they refuse, and what of them is written as JSON."""

import json
import math

import numpy as np
import pytest
import torch

from minigpt4.tasks.records import Metrics, Record, mean_loss, mean_score, wrong_first

RECORDS = [
    Record(image_id="1", truth="a", loss=2.0, tokens=1, group="cats", scores={"exact_match": 1.0}),
    Record(image_id="2", truth="b", loss=1.0, tokens=3, group="dogs", scores={"exact_match": 0.0}),
    Record(image_id="3", truth="c", scores={"exact_match": 1.0}),
    Record(image_id="4", truth="d", loss=5.0, tokens=1, group="dogs"),
]


def test_mean_loss_is_over_tokens_not_over_samples():
    assert mean_loss(RECORDS) == (2.0 * 1 + 1.0 * 3 + 5.0 * 1) / 5
    assert math.isnan(mean_loss(RECORDS[2:3])) and math.isnan(mean_loss([]))


def test_mean_score_is_over_the_records_that_have_it_and_by_group():
    means = mean_score(RECORDS, "exact_match")
    assert means == {"exact_match": 2 / 3, "exact_match_cats": 1.0, "exact_match_dogs": 0.0}
    assert list(means) == ["exact_match", "exact_match_cats", "exact_match_dogs"]
    assert math.isnan(mean_score(RECORDS[3:], "exact_match")["exact_match"])


def test_record_json_has_scores_as_keys_and_no_picture():
    picture = np.zeros((2, 2, 3), np.uint8)
    record = Record(image_id="1", truth="a", prediction="", loss=math.inf, tokens=2, picture=picture)
    expected = {"image_id": "1", "truth": "a", "group": "", "prediction": "", "loss": None, "tokens": 2}
    assert record.to_json() == expected
    assert RECORDS[2].to_json() == {"image_id": "3", "truth": "c", "group": "", "exact_match": 1.0}


def test_wrong_ones_come_first_in_their_own_order() -> None:
    scores = {"a": {"x": 1.0}, "b": {"x": 0.9}, "c": {}, "d": {"x": 1.0}}
    records = [Record(image_id=name, truth="", scores=given) for name, given in scores.items()]
    assert [record.image_id for record in wrong_first(records)] == ["b", "c", "a", "d"]


def test_metrics_must_have_what_they_name():
    values = {"accuracy": 0.5, "loss": 2.0}
    assert Metrics(values, best="loss", percentages=frozenset({"accuracy"})).values == values
    with pytest.raises(ValueError, match="'los' is not among the values accuracy, loss"):
        Metrics(values, best="los")
    with pytest.raises(ValueError, match="'recall' is not among"):
        Metrics(values, best="loss", percentages=frozenset({"recall"}))


def test_numbers_of_numpy_and_torch_are_kept_as_plain_ones():
    """Else the report could not be written, after hours of training."""
    metrics = Metrics({"a": np.float32(0.5), "b": torch.tensor(0.25), "c": 3}, best="a")
    assert json.dumps(metrics.to_json()) == '{"a": 0.5, "b": 0.25, "c": 3}'
    record = Record(image_id="1", truth="a", scores={"overlap": np.float32(0.5)})
    assert json.loads(json.dumps(record.to_json()))["overlap"] == 0.5
    with pytest.raises((TypeError, ValueError)):
        Metrics({"a": "much"}, best="a")


@pytest.mark.parametrize(
    ("higher", "now", "before", "better"),
    [
        (False, 1.0, None, True),
        (False, 1.0, 2.0, True),
        (False, 2.0, 2.0, False),
        (True, 2.0, 1.0, True),
        (True, 1.0, 1.0, False),
        (True, 0.5, 1.0, False),
        (False, math.nan, None, False),
        (True, math.nan, 0.0, False),
    ],
)
def test_metrics_improve_by_their_own_direction(higher, now, before, better):
    assert Metrics({"m": now}, best="m", higher_is_better=higher).improve_on(before) is better


def test_metrics_json_has_nothing_that_is_not_finite():
    values = {"loss": math.nan, "accuracy": 0.5, "perplexity": math.inf}
    assert Metrics(values, best="loss").to_json() == {"loss": None, "accuracy": 0.5, "perplexity": None}


@pytest.mark.parametrize("name", ["steps", "before", 3])
def test_metrics_are_not_called_like_another_key_of_the_report(name) -> None:
    with pytest.raises(ValueError, match=repr(name)):
        Metrics({"loss": 1.0, name: 2.0}, best="loss")


@pytest.mark.parametrize("now", [math.inf, -math.inf, math.nan])
def test_metrics_that_are_not_finite_are_never_the_best(now: float) -> None:
    for higher in (True, False):
        assert not Metrics({"x": now}, best="x", higher_is_better=higher).improve_on(None)
        assert not Metrics({"x": now}, best="x", higher_is_better=higher).improve_on(0.5)

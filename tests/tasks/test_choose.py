"""The tasks that weigh answers: `choose` and `yes_no`, and the area under the ROC curve."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.tasks.choose import ChooseByGainTask, ChooseTask, candidate_losses
from minigpt4.tasks.yes_no import YesNoTask, roc_auc

QUESTION = "<Img><ImageHere></Img> what is this?"


def sample(
    number: int, answer: str, candidates: tuple[str, ...] = (), question: str | None = QUESTION
) -> Sample:
    pixels = torch.full((3, 56, 56), number, dtype=torch.uint8)
    dialogue = Dialogue.of([(question, answer)])
    return Sample(dialogue=dialogue, image=pixels, image_id=str(number), candidates=candidates)


@pytest.mark.parametrize("question", [QUESTION, None])  # None: a caption
def test_candidate_losses_are_those_of_each_answer_alone(golden_model, question) -> None:
    candidates = [("a dog", "two small cats"), ("a", "red", "a dog")]
    batch = Batch.of([sample(10, "?", question=question), sample(200, "?", question=question)])
    losses = candidate_losses(golden_model, batch, candidates)
    assert [len(own) for own in losses] == [2, 3]
    for row, own in enumerate(candidates):
        for answer, loss in zip(own, losses[row], strict=True):
            alone = Batch.of([sample([10, 200][row], answer, question=question)])
            with torch.no_grad():
                each, _ = golden_model.token_losses(golden_model.prepare(alone, evaluation=True))
            assert loss == pytest.approx(each.sum().item(), rel=1e-4)


def test_choose_takes_the_most_likely_candidate(golden_model) -> None:
    candidates = ("a dog", "the", "two small cats")
    batch = Batch.of([sample(10, "the", candidates), sample(20, "nothing", candidates)])
    (likely, *_), task = candidate_losses(golden_model, batch, batch.candidates), ChooseTask()
    records = task.evaluate(golden_model, [batch])
    assert records[0].prediction == candidates[int(np.argmin(likely))]
    assert records[0].scores["accuracy"] == float(records[0].prediction == "the")
    assert records[1].scores["accuracy"] == 0.0
    with pytest.raises(DataError, match="needs candidates"):
        task.evaluate(golden_model, [Batch.of([sample(1, "a")])])


def test_choose_by_gain_leaves_out_what_is_likely_anyway(golden_model, monkeypatch) -> None:
    candidates = ("a dog", "the", "two small cats")
    batch = Batch.of([sample(10, "the", candidates), sample(250, "a dog", (*candidates, "red"))])
    seen = candidate_losses(golden_model, batch, batch.candidates)
    grey = Batch.of([sample(128, "?"), sample(128, "?")])
    unseen = candidate_losses(golden_model, grey, batch.candidates)
    task, calls, losses = ChooseByGainTask(), [], golden_model.token_losses
    monkeypatch.setattr(golden_model, "token_losses", lambda inputs: (calls.append(1), losses(inputs))[1])
    gains = task.losses(golden_model, batch)
    assert len(calls) == 4 + 3  # without pictures, the second sample's "red" beside the first's candidates
    for own, with_picture, without in zip(gains, seen, unseen, strict=True):
        np.testing.assert_allclose(own, np.subtract(with_picture, without), rtol=1e-4, atol=1e-4)

    records = task.evaluate(golden_model, [batch])
    task.losses(golden_model, batch)
    assert len(calls) == 7 + 7 + 4
    chosen = [batch.candidates[row][int(np.argmin(own))] for row, own in enumerate(gains)]
    assert [record.prediction for record in records] == chosen


def test_choose_by_gain_forgets_what_another_model_said(golden_model) -> None:
    batch = Batch.of([sample(10, "the", ("a dog", "the", "two small cats"))])
    task = ChooseByGainTask()
    task.evaluate(golden_model, [batch])
    bias = golden_model.projection.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias.add_(3)  # a step of training
        task.evaluate(golden_model, [batch])
        known, fresh = task.losses(golden_model, batch), ChooseByGainTask().losses(golden_model, batch)
        bias.copy_(before)
    np.testing.assert_allclose(known, fresh, rtol=1e-4, atol=1e-4)


def test_pictures_are_encoded_once_for_all_candidates(golden_model, monkeypatch) -> None:
    seen, encode = [], golden_model.vision.encoder.forward
    monkeypatch.setattr(
        golden_model.vision.encoder, "forward", lambda images: (seen.append(len(images)), encode(images))[1]
    )
    batch = Batch.of([sample(10, "the", ("a dog", "the", "red")), sample(200, "the", ("a dog", "the"))])
    candidate_losses(golden_model, batch, batch.candidates)
    assert seen == [2]


def test_choose_by_gain_needs_pictures(golden_model) -> None:
    text = Sample(dialogue=Dialogue.of([("why?", "the")]), image_id="words", candidates=("a dog", "the"))
    with pytest.raises(DataError, match="words"):
        ChooseByGainTask().evaluate(golden_model, [Batch.of([sample(10, "the", ("the",)), text])])
    batch = Batch.of([sample(10, "the", ("a dog", "the"))])
    features = replace(batch, images=torch.zeros(1, 2, 8))
    with pytest.raises(DataError, match="cached features"):
        ChooseByGainTask().losses(golden_model, features)


def test_yes_no_weighs_both_answers(golden_model) -> None:
    task = YesNoTask()
    task.max_new_tokens = 3
    batch = Batch.of([sample(10, "yes"), sample(99, "no"), sample(200, "yes")])
    records = task.evaluate(golden_model, [batch])
    losses = candidate_losses(golden_model, batch, [("yes", "no")] * 3)
    for record, (yes, no) in zip(records, losses, strict=True):
        share = math.exp(-yes) / (math.exp(-yes) + math.exp(-no))
        assert record.scores["probability_of_yes"] == pytest.approx(share, rel=1e-6)
    metrics = task.summarize(records)
    assert set(metrics.values) == {"accuracy", "yes", "auc"} and metrics.best == "accuracy"
    assert {"accuracy", "auc"} == set(task.intervals(records))


@pytest.mark.parametrize(
    ("scores", "positive", "area"),
    [
        ([0.1, 0.4, 0.35, 0.8], [False, False, True, True], 0.75),
        ([1, 2, 3], [True, False, False], 0.0),
        ([5, 5], [True, False], 0.5),
        ([1, 2], [True, True], math.nan),
    ],
)
def test_roc_auc_by_hand(scores, positive, area) -> None:
    assert roc_auc(scores, positive) == pytest.approx(area, nan_ok=True)


def test_roc_auc_is_that_of_scikit_learn() -> None:
    """Of 200 scores with ties; recorded, see tests/golden/README.md."""
    draws = np.random.default_rng(0)
    scores = np.round(draws.random(200), 1)
    positive = draws.random(200) < 0.3 + 0.3 * scores
    assert roc_auc(scores, positive) == pytest.approx(AUC, abs=1e-12)


AUC = 0.6374178981937603

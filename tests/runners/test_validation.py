"""Held-out data beside training: it tells the best checkpoint, and training is what it would be without."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from minigpt4.runners.checkpoints import BEST, LATEST
from minigpt4.runners.evaluation import warn_if_unknown_texts
from minigpt4.runners.state import RunState
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.tasks.records import Limits, Metrics, Record
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.attempts import eventful, left_behind
from tests.support.runs import train


def trained(left: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What training alone has brought about: the last checkpoint, and its lines of the log."""
    last = {key: left[LATEST][key] for key in ("model", "optimizer", "rng", "sampler", "step")}
    return last, [line for line in left["log.jsonl"] if "loss" in line]


def test_validation_does_not_disturb_training(shapes, tmp_path, monkeypatch) -> None:
    """By a task that draws random numbers, by captions and their pictures, or by what is read."""
    evaluate = ImageTextPretrainTask.evaluate

    def restless(self, model: Any, batches: Any, limits: Limits) -> list[Record]:
        random.random()
        torch.rand(1)
        return evaluate(self, model, batches, limits)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTextPretrainTask, "evaluate", restless)
        train(eventful(shapes, tmp_path / "with", valid_every=4, test_splits=["test"], max_epoch=2))
    train(eventful(shapes, tmp_path / "without", valid_splits=[], max_epoch=2))
    left = left_behind(tmp_path / "with")
    assert trained(left) == trained(left_behind(tmp_path / "without"))
    assert len([line for line in left["log.jsonl"] if "valid_loss" in line]) == 2
    for name in ("samples/step_000004.png", "samples.png", "loss.png"):
        with Image.open(tmp_path / "with" / name) as picture:
            assert min(picture.size) > 300


@pytest.mark.parametrize(("valid_every", "steps"), [(0, [5, 10]), (3, [4, 7, 9]), (10, [10])])
def test_validation_is_taken_when_it_is_due(shapes, tmp_path, undrawn, valid_every, steps) -> None:
    """After the update in which that many steps are reached; these end at 2, 4, 5, 7, 9, 10."""
    train(eventful(shapes, tmp_path / "job", valid_every=valid_every, max_epoch=2))
    log = left_behind(tmp_path / "job")["log.jsonl"]
    assert [(line["step"], line["epoch"]) for line in log if "valid_loss" in line] == [
        (step, (step - 1) // 5) for step in steps
    ]


@pytest.fixture
def losses(monkeypatch, undrawn) -> Iterator[list[float]]:
    """What validations will come to, one after the other."""
    to_come: list[float] = []
    monkeypatch.setattr(
        ImageTextPretrainTask, "summarize", lambda *_: Metrics({"loss": to_come.pop(0)}, best="loss")
    )
    return to_come


def test_best_checkpoint_has_the_lowest_loss(shapes, tmp_path, losses) -> None:
    """After an interruption too; and epochs' ends are saved as without validation."""
    job = tmp_path / "job"
    losses += [3.0, 1.0]
    train(eventful(shapes, job, max_epoch=2, save_every=0))
    losses += [2.0, 0.5]
    result, _ = train(eventful(shapes, job, max_epoch=4, save_every=0, keep=9))
    assert (result["best_valid_loss"], result["best_step"]) == (0.5, 20)
    assert {path.name for path in job.glob("*.pth")} == {
        *(f"checkpoint_{epoch}.pth" for epoch in range(4)),
        *(BEST, LATEST),
    }
    losses += [0.7, 0.5, 0.6]
    result, _ = train(eventful(shapes, job, max_epoch=7, save_every=0, keep=1))
    assert (result["best_valid_loss"], result["best_step"]) == (0.5, 20)
    best = read_checkpoint(job / BEST)
    assert (best["step"], best["epoch"], read_checkpoint(job / LATEST)["step"]) == (20, 3, 35)
    assert {path.name for path in job.glob("*.pth")} == {"checkpoint_6.pth", BEST, LATEST}


def test_best_checkpoint_has_the_highest_accuracy(shapes, tmp_path, monkeypatch, undrawn) -> None:
    """Where the task says so; after an interruption too. What another metric came to does not count."""
    job, to_come = tmp_path / "job", [0.25, 0.75, 0.5, 0.7, 0.8]

    def summarize(*_: Any) -> Metrics:
        return Metrics({"accuracy": to_come.pop(0), "loss": 9.0}, best="accuracy", higher_is_better=True)

    monkeypatch.setattr(ImageTextPretrainTask, "summarize", summarize)
    for epochs, best, step in ((3, 0.75, 10), (4, 0.75, 10), (5, 0.8, 25)):
        result, _ = train(eventful(shapes, job, max_epoch=epochs, save_every=0))
        assert result["best_metric"] == "accuracy"
        assert (result["best_valid_accuracy"], result["best_step"]) == (best, step)
        assert read_checkpoint(job / BEST)["step"] == step
    lines = [line for line in left_behind(job)["log.jsonl"] if "valid_accuracy" in line]
    assert [line["valid_accuracy"] for line in lines] == [0.25, 0.75, 0.5, 0.7, 0.8]
    monkeypatch.setattr(ImageTextPretrainTask, "summarize", lambda *_: Metrics({"loss": 9.0}, best="loss"))
    result, _ = train(eventful(shapes, job, max_epoch=6, save_every=0))
    assert (result["best_metric"], result["best_valid_loss"], result["best_step"]) == ("loss", 9.0, 30)


def test_best_loss_of_an_earlier_version_counts() -> None:
    state = RunState.from_dict({"step": 7, "best_loss": 0.5, "best_step": 5})
    assert (state.best_of("loss"), state.best_of("accuracy"), state.best_step) == (0.5, None, 5)
    assert RunState.from_dict(state.to_dict()) == state


def test_validation_between_checkpoints_is_saved_at_once(shapes, tmp_path, losses) -> None:
    """Whoever goes on need not take it again, best or not."""
    losses += [1.0, 2.0]
    train(eventful(shapes, tmp_path / "job", max_epoch=1, iters_per_epoch=6, valid_every=3, save_every=0))
    assert read_checkpoint(tmp_path / "job" / BEST)["step"] == 4
    assert (tmp_path / "job" / "checkpoint_step_4.pth").samefile(tmp_path / "job" / BEST)


def test_best_checkpoint_never_has_a_loss_that_is_not_a_number(shapes, tmp_path, losses) -> None:
    losses += [float("nan"), 2.0, float("nan")]
    result, _ = train(eventful(shapes, tmp_path / "job"))
    assert (result["best_valid_loss"], result["best_step"]) == (2.0, 10)
    text = (tmp_path / "job" / "log.jsonl").read_text() + (tmp_path / "job" / "report.json").read_text()
    assert "NaN" not in text


def test_texts_that_a_language_model_does_not_know_are_said_before_training(caplog) -> None:
    for values in ({"loss": 6.4}, {"accuracy": 9.0}):
        warn_if_unknown_texts(values, 640)
    assert not caplog.records
    warn_if_unknown_texts({"loss": 17.3}, 640)
    for fact in ("17.30 nats", "6.46", "model.llama_model"):
        assert fact in caplog.text

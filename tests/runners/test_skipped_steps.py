"""A loss or a gradient that is not finite: the update is left out, told, and too many end the run."""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.commands import train as train_command
from minigpt4.common import cli
from minigpt4.common.config import Config
from minigpt4.common.errors import TrainingError
from minigpt4.common.registry import registry
from minigpt4.runners.checkpoints import LATEST
from minigpt4.runners.engine import Engine, Requests
from minigpt4.runners.micro_batches import MicroBatches, accumulation_counts, draw_micro_batches
from minigpt4.tasks import setup_task
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.runs import run_config, train

pytestmark = pytest.mark.usefixtures("undrawn")

ALL = range(1, 1000)


def config(shapes: Path, folder: Path, **run: Any) -> Config:
    """Eight steps, each one update, unless told otherwise; one log line each."""
    return run_config(shapes, folder, **{"log_freq": 1} | run)


def nan_loss(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def inf_loss(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return loss * math.inf


def nan_gradient(loss: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The loss itself is as it was: the root of 0 is 0, its slope is not finite."""
    return loss + 0 * (0 * weight.sum()).sqrt()


Spoil = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def spoil(monkeypatch, batches: Any, how: Spoil = nan_loss) -> None:
    """Have the losses of those batches, counted from 1, end badly."""
    step, number = ImageTextPretrainTask.train_step, count(1)

    def spoiled(self, model: Any, samples: dict[str, Any]) -> torch.Tensor:
        loss = step(self, model, samples)
        return how(loss, model.llama_proj.weight) if next(number) in batches else loss

    monkeypatch.setattr(ImageTextPretrainTask, "train_step", spoiled)


def strict_lines(path: Path) -> list[dict[str, Any]]:
    """JSON as other programs read it: without Python's NaN and Infinity."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def drawn(cfg: Config) -> tuple[Any, Iterator[MicroBatches]]:
    """The model, and what each of its updates is made of."""
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cpu")
    runner = registry.get_runner_class("runner_base")(
        cfg=cfg, task=task, model=model, datasets=task.build_datasets(cfg)
    )
    s = runner.settings
    counts = accumulation_counts(0, s.max_epoch, s.iters_per_epoch, s.accum_grad_iters)
    return model, draw_micro_batches(runner._train_batches(), model.prepare, counts, torch.device("cpu"))


def by_hand(cfg: Config, left_out: set[int]) -> tuple[torch.Tensor, list[list[str]]]:
    """Training in plain torch, in which some updates (counted from 1) never happen.

    Returns:
        The projection's weight at the end, and the keys of the samples of each update.
    """
    model, updates = drawn(cfg)
    weight, bias = model.llama_proj.weight, model.llama_proj.bias
    decayed = [{"params": [weight], "weight_decay": 0.05}, {"params": [bias], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(decayed, foreach=False, fused=False)
    steps, keys = 0, []
    for number, micro_batches in enumerate(updates, 1):
        steps += len(micro_batches.batches)
        keys.append(micro_batches.keys)
        if number in left_out:
            continue
        loss = torch.cat([model.token_losses(samples)[0] for samples in micro_batches.batches]).mean()
        weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
        norm = math.sqrt(weight.grad.square().sum() + bias.grad.square().sum())
        for gradient in (weight.grad, bias.grad):
            gradient /= max(norm, 1.0)
        for parameters in adam.param_groups:
            parameters["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * (steps - 1) / 8))
        adam.step()
    return weight.detach(), keys


@pytest.mark.parametrize("how", [nan_loss, inf_loss, nan_gradient])
def test_skipped_update_changes_nothing(shapes, tmp_path, monkeypatch, how) -> None:
    """Neither weights nor Adam's moments nor its count of steps; the others go on as if it had not been."""
    seen = []

    def watched(self, *args: Any) -> Any:
        pending = update(self, *args)
        state = self.optimizer.state_dict()["state"]
        everything = [self.bare_model.llama_proj.weight, *state[0].values(), *state[1].values()]
        seen.append([tensor.clone() for tensor in everything])
        return pending

    update = Engine.update
    monkeypatch.setattr(Engine, "update", watched)
    spoil(monkeypatch, {3, 4, 7}, how)
    result, runner = train(config(shapes, tmp_path / "job"))
    unchanged = [all(map(torch.equal, before, after)) for before, after in pairwise(seen)]
    assert unchanged == [False, True, True, False, False, True, False]
    assert result["skipped_steps"] == 3
    monkeypatch.undo()
    expected, _ = by_hand(config(shapes, tmp_path / "by_hand"), {3, 4, 7})
    torch.testing.assert_close(runner.bare_model.llama_proj.weight.detach(), expected, rtol=0, atol=2e-6)


def test_skipped_update_is_counted_and_logged_with_its_samples(shapes, tmp_path, monkeypatch, caplog) -> None:
    cfg = config(shapes, tmp_path / "job", log_freq=2)
    spoil(monkeypatch, {3, 4, 7}, inf_loss)
    train(cfg)
    monkeypatch.undo()
    _, keys = by_hand(config(shapes, tmp_path / "by_hand"), set())
    lines = strict_lines(tmp_path / "job" / "log.jsonl")
    assert [(line["step"], line["skipped"]) for line in lines] == [(2, 0), (4, 2), (6, 2), (8, 3)]
    assert lines[1]["loss"] is None and lines[1]["grad_norm"] is None
    assert all(line["loss"] > 0 for line in (lines[0], *lines[2:]))
    skipped = strict_lines(tmp_path / "job" / "skipped.jsonl")
    assert [(line["step"], line["keys"]) for line in skipped] == [(n, keys[n - 1]) for n in (3, 4, 7)]
    assert all(len(line["keys"]) == 4 and line["loss"] == "inf" for line in skipped)
    assert "step 7 is skipped: loss inf" in caplog.text


def test_skipped_update_drops_all_its_micro_batches(shapes, tmp_path, monkeypatch) -> None:
    settings = {"accum_grad_iters": 2, "iters_per_epoch": 4}
    spoil(monkeypatch, {5})
    _, runner = train(config(shapes, tmp_path / "job", **settings))
    monkeypatch.undo()
    expected, keys = by_hand(config(shapes, tmp_path / "by_hand", **settings), {3})
    torch.testing.assert_close(runner.bare_model.llama_proj.weight.detach(), expected, rtol=0, atol=2e-6)
    (line,) = strict_lines(tmp_path / "job" / "skipped.jsonl")
    assert (line["step"], line["keys"]) == (6, keys[2]) and len(line["keys"]) == 8


@pytest.mark.parametrize(("log_freq", "batches", "told"), [(1, ALL, 3), (50, ALL, 4), (50, {1, 2, 3}, 3)])
def test_skipped_updates_in_a_row_end_the_run(shapes, tmp_path, monkeypatch, log_freq, batches, told) -> None:
    """What an update came to is known while the next computes; that one changes nothing about it."""
    job = tmp_path / "job"
    settings = {"max_bad_steps": 3, "log_freq": log_freq, "iters_per_epoch": 8, "max_epoch": 1}
    with monkeypatch.context() as patch:
        spoil(patch, batches)
        with pytest.raises(TrainingError, match=r"^3 updates in a row .* the last at step 3\.") as error:
            train(config(shapes, job, **settings))
    skipped = strict_lines(job / "skipped.jsonl")
    assert str(job / "skipped.jsonl") in str(error.value)
    assert [line["step"] for line in skipped] == list(range(1, told + 1))
    assert all(len(line["keys"]) == 4 for line in skipped)
    saved = read_checkpoint(job / LATEST)
    assert saved["progress"]["skipped"] == told and saved["step"] == (3 if log_freq == 1 else 4)
    # With the reason gone it goes on behind them; with it, it has as many tries again.
    with monkeypatch.context() as patch:
        spoil(patch, {1, 2})
        result, _ = train(config(shapes, job, **settings, resume_ckpt_path="auto"))
    assert result["skipped_steps"] == told + 2 and result["steps"] == 8


def test_skipped_updates_are_counted_anew_after_a_good_one(shapes, tmp_path, monkeypatch) -> None:
    spoil(monkeypatch, {1, 2, 4, 5, 7, 8})
    result, _ = train(config(shapes, tmp_path / "job", max_bad_steps=3))
    assert result["skipped_steps"] == 6


def test_skipped_updates_are_counted_on_after_a_stop(shapes, tmp_path, monkeypatch) -> None:
    """Two in the first epoch's end and one in the second's beginning are three in a row."""
    with monkeypatch.context() as patch:
        spoil(patch, {3, 4})
        train(config(shapes, tmp_path / "job", max_bad_steps=3, max_epoch=1))
    spoil(monkeypatch, {1})
    with pytest.raises(TrainingError, match=r"^3 updates in a row .* the last at step 5\."):
        train(config(shapes, tmp_path / "job", max_bad_steps=3, resume_ckpt_path="auto"))


def test_skipped_updates_end_train_with_one_line_and_an_exit_code(shapes, tmp_path, monkeypatch) -> None:
    cfg = config(shapes, tmp_path / "job", max_bad_steps=2)
    OmegaConf.save(cfg.config, tmp_path / "job.yaml")
    monkeypatch.setattr("minigpt4.common.logger.setup_logger", lambda **_: None)  # it is this process's
    spoil(monkeypatch, ALL)
    with pytest.raises(SystemExit) as end:
        cli.run(
            train_command.train, argparse.Namespace(cfg_path=tmp_path / "job.yaml", options=[], resume=None)
        )
    # A text is printed, and the code is 1.
    assert end.value.code.startswith("error: 2 updates in a row had no finite loss or gradient")
    assert "--resume auto" in end.value.code


@pytest.mark.parametrize(
    ("grad_clip", "left"), [({}, 1.0), ({"grad_clip": 0.05}, 0.05), ({"grad_clip": 0}, None)]
)
def test_engine_update_clips_the_gradient(shapes, tmp_path, grad_clip, left) -> None:
    cfg = config(shapes, tmp_path / "job", **grad_clip)
    model, updates = drawn(cfg)
    (micro_batches,) = islice(updates, 1)
    task = setup_task(cfg)
    engine = registry.get_runner_class("runner_base")(
        cfg=cfg, task=task, model=model, datasets=task.build_datasets(cfg)
    ).engine
    loss = torch.cat([model.token_losses(samples)[0] for samples in micro_batches.batches]).mean()
    gradients = torch.autograd.grad(loss, [model.llama_proj.weight, model.llama_proj.bias])
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert norm > 1
    seen = []
    engine.optimizer.optimizer.register_step_pre_hook(
        lambda *_: seen.extend([model.llama_proj.weight.grad.clone(), model.llama_proj.bias.grad.clone()])
    )
    assert engine.update(micro_batches, 1, Requests()).result().norm == pytest.approx(norm, rel=1e-5)
    for ours, whole in zip(seen, gradients, strict=True):
        torch.testing.assert_close(ours, whole * (1 if left is None else left / norm), rtol=1e-4, atol=1e-7)

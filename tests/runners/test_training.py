"""train.py's parts, end to end at small sizes: what a run writes, repeats, resumes and refuses."""

import json
import logging
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.config import Config
from minigpt4.common.errors import CheckpointError, ConfigError, TrainingError
from minigpt4.common.registry import registry
from minigpt4.runners.engine import Engine, Requests
from minigpt4.runners.micro_batches import draw_micro_batches
from minigpt4.runners.reporting.reporter import report_table
from minigpt4.tasks import setup_task
from tests.support.runs import losses, run_config, train


def test_training_leaves_checkpoints_log_plots_and_report(shards: Path, tmp_path: Path) -> None:
    report, runner = train(run_config(shards, tmp_path / "job", test_splits=["test"]))
    assert {p.name for p in (tmp_path / "job").iterdir()} == {
        *("checkpoint_0.pth", "checkpoint_1.pth", "checkpoint_latest.pth"),
        *("log.jsonl", "loss.png", "samples.png", "predictions.jsonl", "predictions.md", "report.json"),
    }
    assert json.loads((tmp_path / "job" / "report.json").read_text()) == report
    assert report["trainable_parameters"] == 48 * 64 + 64
    assert report["samples"] == 10
    assert {"exact_match_one_object", "exact_match_two_objects", "loss"} <= report.keys()
    assert report["before"].keys() == {k for k in report if k.startswith("exact_match")} | {
        "loss",
        "samples",
    }
    assert report["loss"] < report["before"]["loss"]
    assert "exact match one object" in report_table(report)

    checkpoint = torch.load(tmp_path / "job" / "checkpoint_latest.pth", weights_only=True)
    assert checkpoint["model"].keys() == {"llama_proj.weight", "llama_proj.bias"}
    assert torch.equal(checkpoint["model"]["llama_proj.weight"], runner.bare_model.llama_proj.weight)
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 8)
    assert checkpoint["meta"]["llm_width"] == 64
    assert checkpoint["config"]["run"]["init_lr"] == 0.01

    log = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["step"]) for r in log] == [(0, 2), (0, 4), (1, 6), (1, 8)]


def test_training_logs_the_first_update_s_peak_of_memory(shards: Path, tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    _, runner = train(run_config(shards, tmp_path / "job"))
    (peak,) = (r.args[1] for r in caplog.records if "at the peak of the first update" in r.getMessage())
    number, unit = peak.split()
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] >= runner.counted_memory.total > 0


def test_training_out_of_memory_ends_with_advice(shards: Path, tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory: tried to allocate 2 GiB")

    monkeypatch.setattr(Engine, "update", refuse)
    with pytest.raises(TrainingError, match=r"cpu ran out of memory .* activations of 4 samples") as error:
        train(run_config(shards, tmp_path / "job", accum_grad_iters=2))
    assert "batch_size: 2 and run.accum_grad_iters: 4" in str(error.value)


def test_training_with_one_seed_repeats_losses_and_weights(shards: Path, tmp_path: Path) -> None:
    _, first = train(run_config(shards, tmp_path / "a"))
    _, again = train(run_config(shards, tmp_path / "b"))
    train(run_config(shards, tmp_path / "other", seed=7))
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "other")
    assert torch.equal(first.bare_model.llama_proj.weight, again.bare_model.llama_proj.weight)


def test_engine_update_is_the_mean_over_all_target_tokens(shards: Path, tmp_path: Path) -> None:
    """Of both batches that are accumulated: not a sum, as in the original, and not a mean of means."""
    cfg = run_config(shards, tmp_path / "acc", accum_grad_iters=2, grad_clip=0)
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cpu")
    runner = registry.get_runner_class("runner_base")(
        cfg=cfg, task=task, model=model, datasets=task.build_datasets(cfg)
    )
    prepare, batches = model.prepare, runner._train_batches()
    (micro_batches,) = islice(draw_micro_batches(batches, prepare, iter([2]), torch.device("cpu")), 1)
    losses = torch.cat([model.token_losses(samples)[0] for samples in micro_batches.batches])
    assert len({samples.tokens.targets for samples in micro_batches.batches}) == 2  # else both means are one
    assert micro_batches.targets == len(losses)
    (expected,) = torch.autograd.grad(losses.mean(), [model.llama_proj.weight])
    seen = []
    runner.engine.optimizer.optimizer.register_step_pre_hook(
        lambda *_: seen.append(model.llama_proj.weight.grad.clone())
    )
    result = runner.engine.update(micro_batches, 2, Requests(save=True)).result()
    assert len(seen) == 1 and result.requests == Requests(stop=False, save=True)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)
    assert result.loss == pytest.approx(losses.sum().item(), rel=1e-6)
    assert result.finite and (result.targets, result.images) == (micro_batches.targets, 8)


def test_resume_goes_on_with_the_next_epoch(shards: Path, tmp_path: Path) -> None:
    train(run_config(shards, tmp_path / "job", max_epoch=1))
    checkpoint = tmp_path / "job" / "checkpoint_0.pth"
    _, runner = train(run_config(shards, tmp_path / "job", resume_ckpt_path=str(checkpoint)))
    log = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    assert [(r["epoch"], r["step"]) for r in log] == [(0, 2), (0, 4), (1, 6), (1, 8)]
    state = runner.engine.optimizer.state_dict()["state"][0]
    assert state["step"] == 8
    torch.save({"model": torch.load(checkpoint, weights_only=True)["model"]}, tmp_path / "bare.pth")
    with pytest.raises(CheckpointError, match=r"has no 'optimizer', it cannot be resumed"):
        train(run_config(shards, tmp_path / "job", resume_ckpt_path=str(tmp_path / "bare.pth")))


def test_resume_of_a_language_model_trained_in_full_is_exact(shards: Path, tmp_path: Path) -> None:
    """Its checkpoint holds the language model too, under the original's names."""

    def config(job: str, **run: Any) -> Config:
        cfg = run_config(shards, tmp_path / job, init_lr=1e-3, log_freq=1, **run)
        cfg.config.model.llm_trainable = "full"
        return cfg

    _, whole = train(config("whole"))
    halfway = tmp_path / "whole" / "checkpoint_0.pth"
    saved = torch.load(halfway, weights_only=True)["model"]
    assert {key.split(".")[0] for key in saved} == {"llama_model", "llama_proj"}
    _, resumed = train(config("resumed", resume_ckpt_path=str(halfway)))
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")[4:]
    for key, value in whole.bare_model.trainable_state_dict().items():
        assert torch.equal(resumed.bare_model.trainable_state_dict()[key], value)
    assert not torch.equal(saved["llama_model.lm_head.weight"], whole.bare_model.llama_model.lm_head.weight)


def test_training_keeps_an_earlier_run_and_warns(shards: Path, tmp_path: Path, caplog) -> None:
    train(run_config(shards, tmp_path / "job", max_epoch=1))
    assert not warnings_about(caplog, tmp_path / "job.1")
    before = (tmp_path / "job" / "checkpoint_0.pth").read_bytes()
    train(run_config(shards, tmp_path / "job", max_epoch=1, seed=1))
    assert len(warnings_about(caplog, tmp_path / "job.1")) == 1
    assert (tmp_path / "job.1" / "checkpoint_0.pth").read_bytes() == before
    assert (tmp_path / "job" / "checkpoint_0.pth").read_bytes() != before


def warnings_about(caplog: pytest.LogCaptureFixture, folder: Path) -> list[str]:
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    return [message for message in said if str(folder) in message]


def test_training_refuses_a_frozen_model_and_absent_splits(shards: Path, tmp_path: Path) -> None:
    cfg = run_config(shards, tmp_path / "job", test_splits=["validation"])
    with pytest.raises(ConfigError, match=r"run.test_splits: no data set has a split 'validation'"):
        train(cfg)
    task = setup_task(cfg)
    model = task.build_model(cfg, device="cpu").requires_grad_(False)
    datasets = task.build_datasets(cfg)
    with pytest.raises(ConfigError, match="nothing is trained"):
        registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)


def test_log_counts_bad_samples(shards: Path, tmp_path: Path) -> None:
    cfg = run_config(shards, tmp_path / "job")
    missing = [f"{shards}/train/00000.tar", f"{shards}/train/99999.tar"]
    cfg.config.datasets.cc_sbu.build_info.storage.train = missing
    report, _ = train(cfg)
    assert report["bad_samples"].keys() == {"missing shard"}
    last = json.loads((tmp_path / "job" / "log.jsonl").read_text().splitlines()[-1])
    assert last["bad"] == report["bad_samples"]

"""A resumed run is the run that was not stopped: losses, weights, counts and random state."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from dataset.shapes.make_shards import write_split
from minigpt4.common.errors import CheckpointError
from minigpt4.weights.checkpoint import read_checkpoint, save_checkpoint
from tests.support.runs import losses, mixed_config, run_config, train


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_split(folder / "train", "train", 40, seed=0, samples_per_shard=20)
    write_split(folder / "test", "test", 4, seed=0, samples_per_shard=4)
    write_split(folder / "more", "train", 30, seed=1, samples_per_shard=10)
    return folder


@pytest.mark.integration
def test_two_epochs_are_one_and_a_resumed_one(shapes: Path, tmp_path: Path) -> None:
    """Losses, weights and counts, bit for bit in float32."""
    report, whole = train(mixed_config(shapes, tmp_path / "whole"))
    assert not multiprocessing.active_children()  # the workers end with the training
    train(mixed_config(shapes, tmp_path / "parts"))
    checkpoint = tmp_path / "parts" / "checkpoint_0.pth"
    kept = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()[:6]]
    (tmp_path / "parts" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    again, resumed = train(mixed_config(shapes, tmp_path / "parts", resume_ckpt_path=str(checkpoint)))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts") and len(losses(tmp_path / "parts")) == 12
    assert torch.equal(whole.bare_model.llama_proj.weight, resumed.bare_model.llama_proj.weight)
    assert report["bad_samples"] == again["bad_samples"] and report["bad_samples"]["missing shard"] > 0
    ends = [read_checkpoint(tmp_path / run / "checkpoint_1.pth") for run in ("whole", "parts")]
    assert ends[0]["sampler"] == ends[1]["sampler"] and ends[0]["sampler"][0]["drawn"] == 12
    assert torch.equal(ends[0]["rng"][0]["torch"], ends[1]["rng"][0]["torch"])
    assert ends[0]["rng"][0]["python"] == ends[1]["rng"][0]["python"]


@pytest.mark.integration
def test_a_checkpoint_that_does_not_know_its_place_is_refused(shapes: Path, tmp_path: Path) -> None:
    train(run_config(shapes, tmp_path / "job", max_epoch=1, iters_per_epoch=1))
    checkpoint = read_checkpoint(tmp_path / "job" / "checkpoint_0.pth")
    del checkpoint["sampler"]
    save_checkpoint(checkpoint, tmp_path / "old.pth")
    with pytest.raises(CheckpointError, match="has no 'sampler', it cannot be resumed"):
        train(run_config(shapes, tmp_path / "job", resume_ckpt_path=str(tmp_path / "old.pth")))


@pytest.mark.integration
def test_a_resumed_run_optimizes_as_its_settings_say_now(shapes: Path, tmp_path: Path, caplog) -> None:
    """What the optimizer has learned stays, what it is told does not; each change is a line of the log."""
    job, changes = tmp_path / "job", {"weight_decay": 0.5, "beta2": 0.5, "init_lr": 0.02, "min_lr": 0.02}
    train(run_config(shapes, job, max_epoch=1))
    with caplog.at_level("WARNING"):
        train(run_config(shapes, job, **changes, resume_ckpt_path="auto"))
    optimizer = read_checkpoint(job / "checkpoint_1.pth")["optimizer"]
    assert [group["weight_decay"] for group in optimizer["param_groups"]] == [0.5, 0.0]
    assert {(*group["betas"], group["lr"]) for group in optimizer["param_groups"]} == {(0.9, 0.5, 0.02)}
    assert {state["step"].item() for state in optimizer["state"].values()} == {8}  # updates of both runs
    for key in changes:
        assert sum(f"run.{key}: " in record.getMessage() for record in caplog.records) == 1

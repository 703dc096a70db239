"""What is told before the first step, and what is said when memory runs out all the same."""

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from minigpt4.common.errors import ConfigError
from minigpt4.common.formatting import format_bytes
from minigpt4.runners import output_folder
from minigpt4.runners.resources import preflight as module
from minigpt4.runners.resources.preflight import (
    check_disk,
    check_output,
    checkpoint_bytes,
    checkpoints_to_come,
    preflight,
)
from minigpt4.runners.settings import RunSettings
from tests.support.golden import build_golden_model

CPU = torch.device("cpu")
# Two datasets; the larger batch decides.
DATASETS: Any = {"a": (SimpleNamespace(batch_size=8), {}), "b": (SimpleNamespace(batch_size=32), {})}


def settings(folder: Path, **keys: Any) -> RunSettings:
    values = {"task": "t", "max_epoch": 4, "iters_per_epoch": 10, "init_lr": 0.1, "output_dir": str(folder)}
    return RunSettings(**values | keys)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_golden_model(llm_sanity_check=False)


def free_disk(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def test_preflight_of_a_good_run_is_silent(model, tmp_path, caplog):
    folder = tmp_path / "runs" / "first"
    counted = preflight(model, DATASETS, settings(folder), CPU)
    assert not list(tmp_path.iterdir())  # the run makes its folder, when nothing can refuse it any more
    assert counted.batch_size == 32
    assert not caplog.records


def test_check_output_leaves_what_is_in_the_folder(tmp_path):
    (tmp_path / "log.jsonl").write_text("{}\n")
    check_output(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    assert (tmp_path / "log.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize("place", ["taken", "taken/below", "taken/further/below"])
def test_check_output_refuses_a_file(tmp_path, place):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ConfigError, match=r"run\.output_dir is .*, but .*taken is a file, not a folder"):
        check_output(tmp_path / place)
    assert (tmp_path / "taken").read_text() == "mine"


def test_check_output_refuses_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"run\.output_dir: nothing can be written to .*link/below"):
        check_output(tmp_path / "link" / "below")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_check_output_refuses_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(output_folder.tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ConfigError, match=r"run\.output_dir: nothing can be written to .*Permission denied"):
        check_output(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_check_output_writes_to_find_a_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(output_folder.tempfile, "NamedTemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(ConfigError, match="No space left on device; free some space"):
        check_output(tmp_path)


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ({"keep": 2, "save_minutes": 30}, 2 + 2 + 3),
        ({"keep": 2, "save_minutes": 0, "save_every": 5}, 2 + 2 + 3),
        ({"keep": 2, "save_minutes": 0}, 2 + 3),
        ({"keep": 9, "save_minutes": 0}, 4 + 3),
        ({"keep": 9, "save_minutes": 0.5}, 4 + 9 + 3),
    ],
)
def test_checkpoints_to_come_counts_both_kinds(tmp_path, keys, count):
    assert checkpoints_to_come(settings(tmp_path, **keys)) == count


def test_checkpoint_bytes_are_about_those_of_a_file(tmp_path):
    model = build_golden_model(llm_sanity_check=False, freeze_qformer=False, freeze_vit=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    sum(p.sum() for p in trained).backward()
    optimizer.step()
    state = {"model": model.trainable_state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pth")
    size = (tmp_path / "checkpoint.pth").stat().st_size
    assert 0.9 * size < checkpoint_bytes(model) < 1.1 * size


def test_check_disk_refuses_too_little(model, tmp_path, monkeypatch):
    run = settings(tmp_path, keep=2, save_minutes=0)
    needed = 5 * checkpoint_bytes(model)
    free_disk(monkeypatch, needed)
    check_disk(tmp_path, model, run)
    free_disk(monkeypatch, needed - 1)
    with pytest.raises(ConfigError) as error:
        check_disk(tmp_path, model, run)
    for part in ("run.output_dir", str(tmp_path), "5 of 137.6 kB each", "688.2 kB", "run.keep is 2"):
        assert part in str(error.value)


def test_check_disk_counts_what_a_resumed_run_replaces_once(model, tmp_path, monkeypatch):
    size = checkpoint_bytes(model)
    (tmp_path / "checkpoint_0.pth").write_bytes(bytes(2 * size))
    os.link(tmp_path / "checkpoint_0.pth", tmp_path / "checkpoint_latest.pth")
    resumed = settings(tmp_path, keep=2, save_minutes=0, resume_ckpt_path="auto")
    free_disk(monkeypatch, 3 * size)
    check_disk(tmp_path, model, resumed)
    free_disk(monkeypatch, 3 * size - 1)
    with pytest.raises(ConfigError, match=r"run\.output_dir"):
        check_disk(tmp_path, model, resumed)
    # An earlier run's are moved aside, and stay.
    free_disk(monkeypatch, 4 * size)
    with pytest.raises(ConfigError, match=r"run\.output_dir"):
        check_disk(tmp_path, model, settings(tmp_path, keep=2, save_minutes=0))


def test_preflight_refuses_a_language_model_without_a_gradient(model, tmp_path, monkeypatch):
    preflight(model, DATASETS, settings(tmp_path), CPU)
    monkeypatch.setattr(model.language, "_decode", lambda *_: (torch.ones(18, 64), lambda rows: rows))
    with pytest.raises(ConfigError, match=r"model\.llama_model: .* a llama, cannot be trained through"):
        preflight(model, DATASETS, settings(tmp_path), CPU)


def test_preflight_warns_where_what_can_be_counted_does_not_fit(model, tmp_path, monkeypatch, caplog):
    needed = preflight(model, DATASETS, settings(tmp_path), CPU).total
    monkeypatch.setattr(module, "available_memory", lambda _: needed)
    preflight(model, DATASETS, settings(tmp_path), CPU)
    monkeypatch.setattr(module, "available_memory", lambda _: None)
    preflight(model, DATASETS, settings(tmp_path), CPU)
    assert not caplog.records
    monkeypatch.setattr(module, "available_memory", lambda _: needed - 1)
    caplog.set_level(logging.WARNING)
    preflight(model, DATASETS, settings(tmp_path), CPU)
    (message,) = caplog.messages
    assert message.startswith(f"cpu has {format_bytes(needed - 1)}, but ")
    assert f"of a step of 32 samples alone are {format_bytes(needed)}" in message
    assert "batch_size: 16 and run.accum_grad_iters: 2;" in message

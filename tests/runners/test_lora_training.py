"""A run that trains a LoRA adapter is the same run in whatever way it is executed."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import GOLDEN, modes
from tests.support.golden import can_compile
from tests.support.modes import LORA, UPDATES, Runs, checkpoint, seen_by, updates_of, write_config


@pytest.fixture(scope="module")
def alone(runs: Runs) -> Path:
    modes.train(write_config(runs.folder, "lora_alone", model=LORA))
    return runs.folder / "lora_alone"


def assert_same(folder: Path, alone: Path) -> None:
    for key, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):
        found, expected = ([update[key] for update in updates_of(one)] for one in (folder, alone))
        assert found == pytest.approx(expected, rel=tolerance) and len(found) == UPDATES
    weights, expected = checkpoint(folder)["model"], checkpoint(alone)["model"]
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-5)


def test_adapter_and_projection_are_trained_and_nothing_else(alone: Path) -> None:
    before = torch.load(GOLDEN / "minigptv2_checkpoint.pth", weights_only=True)["model"]
    after = checkpoint(alone)["model"]
    assert after.keys() == before.keys()
    assert not any(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("name", ["lora_two", "lora_sharded"])
def test_adapter_on_two_ranks_is_that_of_one_process(runs: Runs, alone: Path, name: str) -> None:
    assert_same(runs.folder / name, alone)


def test_sharding_leaves_the_adapter_whole(runs: Runs) -> None:
    layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64  # attention, feed-forward, norms
    adapter = 2 * 2 * 4 * 64
    share = (layer / 2 + adapter) / (layer + adapter)
    assert [seen["held"] for seen in seen_by(runs, "lora_sharded")] == pytest.approx([share, share])


@can_compile
def test_adapter_compiled_is_the_same(runs: Runs, alone: Path, monkeypatch) -> None:
    """The graphs are traced and differentiated, and run eagerly."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    modes.train(write_config(runs.folder, "lora_compiled", model=LORA | {"compile": True}))
    torch.compiler.reset()
    assert_same(runs.folder / "lora_compiled", alone)


def test_resumed_adapter_is_the_same_to_the_bit_with_dropout(runs: Runs) -> None:
    model: dict[str, Any] = LORA | {"lora_dropout": 0.5, "llm_grad_checkpoint": True}
    modes.train(write_config(runs.folder, "lora_dropout", model=model, save_every=2))
    folder = runs.folder / "lora_dropout"
    whole = checkpoint(folder)["model"]
    middle = str(folder / "checkpoint_step_4.pth")
    modes.train(write_config(runs.folder, "lora_resumed", model=model, resume_ckpt_path=middle))
    resumed = checkpoint(runs.folder / "lora_resumed")["model"]
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())

"""One list of golden losses, which comes out of a run in whatever way it is executed."""

import json
import socket
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.prompts.sample import Batch
from minigpt4.tasks import setup_task
from tests.support import modes
from tests.support.golden import build_golden_model, can_compile
from tests.support.modes import (
    LOSSES,
    TOGETHER,
    UPDATES,
    Runs,
    assert_golden,
    checkpoint,
    seen_by,
    updates_of,
    write_config,
)
from tests.support.shards import read


def assert_same_run(folder: Path, name: str) -> None:
    """Losses, gradients, weights, and metrics where there are any, are those of one process."""
    assert_golden(updates_of(folder / name))
    weights, expected = checkpoint(folder / name)["model"], checkpoint(folder / "alone")["model"]
    assert weights.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-5)
    report, wanted = (json.loads((folder / run / "report.json").read_text()) for run in (name, "alone"))
    assert report["images"] == UPDATES * TOGETHER
    if name in ("two", "sharded"):
        assert report["before"] == pytest.approx(wanted["before"], rel=1e-5)
        for key in ("loss", "exact_match", "samples", "best_valid_loss"):
            assert report[key] == pytest.approx(wanted[key], rel=1e-5)


def test_training_in_one_process_has_the_golden_losses(runs: Runs) -> None:
    assert_same_run(runs.folder, "alone")


def test_golden_losses_are_not_means_of_means(runs: Runs) -> None:
    """Of the first update's samples, as two ranks share them, and as they are accumulated."""
    cfg = modes.config_of(write_config(runs.folder, "unused"))
    dataset = setup_task(cfg).build_datasets(cfg)["jsonl"][1]["train"]
    samples = list(islice(read(dataset, training=True, seed=cfg.run_cfg.get("seed", 42)), TOGETHER))
    model = build_golden_model(llm_sanity_check=False)
    with torch.no_grad():
        sums = [model(Batch.of([sample]), reduction="sum")["loss"].item() for sample in samples]
        counts = [len(model.token_losses(Batch.of([sample]))[0]) for sample in samples]
    assert sum(sums) / sum(counts) == pytest.approx(LOSSES[0], rel=1e-5)
    for first, second in ((slice(0, None, 2), slice(1, None, 2)), (slice(0, 4), slice(4, 8))):
        means = [sum(sums[half]) / sum(counts[half]) for half in (first, second)]
        assert abs(sum(means) / 2 - LOSSES[0]) > 1e-3 * LOSSES[0]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("accumulated", {"accumulated": 2}),
        ("recomputed", {"model": {"llm_grad_checkpoint": True}}),
        ("workers", {"num_workers": 1}),
    ],
)
def test_training_otherwise_has_the_golden_losses(runs: Runs, name: str, how: dict[str, Any]) -> None:
    modes.train(write_config(runs.folder, name, **how))
    assert_same_run(runs.folder, name)


@pytest.fixture
def graphs_only(monkeypatch) -> Iterator[None]:
    """torch.compile without its slowest part: the graphs are traced and differentiated, and run eagerly."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


@can_compile
def test_training_compiled_has_the_golden_losses(runs: Runs, graphs_only: None) -> None:
    modes.train(write_config(runs.folder, "compiled", model={"compile": True}))
    assert_same_run(runs.folder, "compiled")


@pytest.mark.slow
@can_compile
def test_training_compiled_to_machine_code_has_the_golden_losses(runs: Runs) -> None:
    modes.train(write_config(runs.folder, "machine_code", model={"compile": True}))
    assert_same_run(runs.folder, "machine_code")


def test_training_resumed_within_an_epoch_has_the_golden_losses(runs: Runs) -> None:
    modes.train(write_config(runs.folder, "resumed", save_every=2))
    with (runs.folder / "resumed" / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 0}\n')
    middle = runs.folder / "resumed" / "checkpoint_step_4.pth"
    modes.train(write_config(runs.folder, "resumed", resume_ckpt_path=str(middle)))
    assert_same_run(runs.folder, "resumed")


@pytest.mark.parametrize("name", ["two", "two_accumulated", "sharded", "sharded_accumulated", "stopped"])
def test_training_on_two_ranks_has_the_golden_losses(runs: Runs, name: str) -> None:
    """`stopped` was stopped in the middle of an epoch, and went on."""
    assert_same_run(runs.folder, name)


@pytest.mark.parametrize("name", ["sharded_after_two", "two_after_sharded"])
def test_checkpoint_knows_nothing_of_sharding(runs: Runs, name: str) -> None:
    assert_golden(updates_of(runs.folder / name), UPDATES // 2)


def test_sharding_leaves_each_rank_its_part(runs: Runs) -> None:
    for name, share in {"two": 1, "sharded": 0.5, "sharded_accumulated": 0.5}.items():
        assert [seen["held"] for seen in seen_by(runs, name)] == [share, share]


def test_sharding_leaves_the_predictions(runs: Runs) -> None:
    """Its ranks look at every picture together."""
    (alone,) = seen_by(runs, "alone")
    first, second = seen_by(runs, "sharded")
    assert len(alone["captions"][0]) == 11 and all(alone["captions"][0].values())
    assert first["captions"][0] == second["captions"][0] == alone["captions"][0]


@pytest.mark.slow
def test_accelerate_launch_shards_the_language_model(runs: Runs) -> None:
    """Two processes, and `--use_fsdp` is all that says so."""
    config = write_config(runs.folder, "accelerate", ranks=2)
    command = ("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2")
    with socket.create_server(("127.0.0.1", 0)) as server:  # old launchers do not look for a port themselves
        port = str(server.getsockname()[1])
    with modes.launched(*command, "--main_process_port", port, "train.py", "--cfg-path", str(config)) as run:
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert said.count("layers are sharded over 2 ranks") == said.count("Chat with it:") == 1
    assert_same_run(runs.folder, "accelerate")

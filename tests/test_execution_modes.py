"""One list of golden losses, which comes out of a run in whatever way it is executed."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.datasets.collate import collate
from minigpt4.tasks import setup_task
from tests import modes
from tests.conftest import build_golden_model
from tests.modes import EVALUATED, LOSSES, TOGETHER, UPDATES, assert_golden, checkpoint, write_config

SHARD = {"device_map": "shard"}
# What two ranks do in one start.
TWO_RANKS: dict[str, dict[str, Any]] = {
    "two": EVALUATED,
    "two_accumulated": {"accumulated": 2},
    "sharded": EVALUATED | {"model": SHARD},
    "sharded_accumulated": {"accumulated": 2, "model": SHARD | {"llm_grad_checkpoint": True}},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of everything here, with the run of one process in `alone`."""
    folder = tmp_path_factory.mktemp("modes")
    modes.write_data(folder)
    modes.train(write_config(folder, "alone", **EVALUATED))
    return folder


@pytest.fixture(scope="module")
def two_ranks(alone: Path) -> Path:
    jobs = [{"config": write_config(alone, name, ranks=2, **how)} for name, how in TWO_RANKS.items()]
    # Rank 1 is asked to stop in the middle of an epoch; both stop, and go on.
    jobs.append({"config": write_config(alone, "stopped", ranks=2), "at": 3, "what": "stop"})
    jobs.append({"config": write_config(alone, "stopped", ranks=2, resume_ckpt_path="auto")})
    code, said = modes.run_jobs(alone, jobs)
    assert code == 0, said
    return alone


def assert_same_run(folder: Path, name: str) -> None:
    """Losses, gradients, weights, and metrics where there are any, are those of one process."""
    assert_golden(folder / name)
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


def test_one_process(alone: Path) -> None:
    assert_same_run(alone, "alone")


def test_a_mean_of_means_would_be_another_loss(alone: Path) -> None:
    """Of the first update's samples, as two ranks share them, and as they are accumulated."""
    cfg = modes.config_of(write_config(alone, "unused"))
    dataset = setup_task(cfg).build_datasets(cfg)["jsonl"][1]["train"]
    dataset.training = True
    samples = [sample for sample, _ in zip(dataset, range(TOGETHER), strict=False)]
    model = build_golden_model(llm_sanity_check=False)
    with torch.no_grad():
        sums = [model(collate([sample]), reduction="sum")["loss"].item() for sample in samples]
        counts = [len(model.token_losses(collate([sample]))[0]) for sample in samples]
    assert sum(sums) / sum(counts) == pytest.approx(LOSSES[0], rel=1e-5)
    for first, second in ((slice(0, None, 2), slice(1, None, 2)), (slice(0, 4), slice(4, 8))):
        means = [sum(sums[half]) / sum(counts[half]) for half in (first, second)]
        assert abs(sum(means) / 2 - LOSSES[0]) > 1e-3 * LOSSES[0]


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("accumulated", {"accumulated": 2}),
        ("accumulated_by_four", {"accumulated": 4}),
        ("recomputed", {"model": {"llm_grad_checkpoint": True}}),
        ("workers", {"num_workers": 1}),
    ],
)
def test_one_process_otherwise(alone: Path, name: str, how: dict[str, Any]) -> None:
    modes.train(write_config(alone, name, **how))
    assert_same_run(alone, name)


@pytest.fixture
def graphs_only(monkeypatch) -> Iterator[None]:
    """torch.compile without its slowest part: the graphs are traced and differentiated, and run eagerly."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    yield
    torch.compiler.reset()


def test_compiled(alone: Path, graphs_only: None) -> None:
    modes.train(write_config(alone, "compiled", model={"compile": True}))
    assert_same_run(alone, "compiled")


@pytest.mark.slow
def test_compiled_to_machine_code(alone: Path) -> None:
    modes.train(write_config(alone, "machine_code", model={"compile": True}))
    assert_same_run(alone, "machine_code")


def test_resumed_in_the_middle_of_an_epoch(alone: Path) -> None:
    modes.train(write_config(alone, "resumed", save_every=2))
    (alone / "resumed" / "log.jsonl").open("a").write('{"step": 5, "loss": 0}\n')
    middle = alone / "resumed" / "checkpoint_step_4.pth"
    modes.train(write_config(alone, "resumed", resume_ckpt_path=str(middle)))
    assert_same_run(alone, "resumed")


@pytest.mark.parametrize("name", [*TWO_RANKS, "stopped"])
def test_two_processes(two_ranks: Path, name: str) -> None:
    assert_same_run(two_ranks, name)


def test_two_processes_stopped_between(two_ranks: Path) -> None:
    """`stopped` was in two parts: no rank trained on anything twice."""
    reports = [json.loads((two_ranks / f"stopped.{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(report["trained"]) for report in reports] == [2, 2]


def test_accelerate_launch_shards(alone: Path) -> None:
    """Two processes, and `--use_fsdp` is all that says so."""
    config = write_config(alone, "accelerate", ranks=2)
    command = ("accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2")
    with modes.launched(*command, "--main_process_port", "0", "train.py", "--cfg-path", str(config)) as run:
        said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    assert said.count("layers are spread over 2 ranks") == said.count("Chat with it:") == 1
    assert_same_run(alone, "accelerate")

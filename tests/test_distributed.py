"""Several ranks: who reads what, who is asked to stop, who falls over, and who goes on."""

import json
import logging
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import modes
from tests.modes import EVALUATED, TOGETHER, UPDATES, assert_golden, checkpoint, log_of, write_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    modes.write_data(folder)
    return folder


@pytest.fixture(scope="module")
def said(folder: Path) -> str:
    """What two ranks say to some jobs, the last of which one of them does not survive."""
    modes.train(write_config(folder, "alone", epochs=1))
    earlier = str(folder / "alone" / "checkpoint_0.pth")
    code, said = modes.run_jobs(
        folder,
        [
            {"config": write_config(folder, "whole", ranks=2, **EVALUATED)},
            {"config": write_config(folder, "stopped", ranks=2), "at": 3, "what": "stop"},
            {"config": write_config(folder, "joined", ranks=2, resume_ckpt_path=earlier)},
            {"config": write_config(folder, "fallen", ranks=2), "at": 3, "what": "raise"},
        ],
    )
    assert code == 1, said
    return said


def reports(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each rank saw."""
    return [json.loads((folder / f"{name}.{rank}.json").read_text()) for rank in (0, 1)]


def test_ranks_read_what_one_process_would_and_nothing_twice(folder: Path, said: str) -> None:
    with modes.watched({}) as seen:
        modes.train(write_config(folder, "reader"))
    first, second = (report["trained"] for report in reports(folder, "whole"))
    assert len(first) == len(second) == len(seen["trained"]) == UPDATES
    for one, two, together in zip(first, second, seen["trained"], strict=True):
        assert len(one) == len(two) == TOGETHER // 2
        assert sorted(one + two) == sorted(together)
    assert len({key for keys in first + second for key in keys}) == UPDATES * TOGETHER


def test_ranks_evaluate_half_each(folder: Path, said: str) -> None:
    first, second = (report["evaluated"] for report in reports(folder, "whole"))
    # Before training, at two epochs' ends, after training.
    assert [len(keys) for keys in first] == [6, 4, 4, 6]
    assert [len(keys) for keys in second] == [5, 3, 3, 5]
    assert sorted(first[0] + second[0]) == sorted(f"test_{number}.png" for number in range(11))


def test_only_one_rank_speaks(said: str) -> None:
    assert said.count("whole/checkpoint_0.pth (the best so far)") == 1
    assert said.count("wrote report.json") == 2  # of two runs that came to their end


def test_ranks_wait_minutes_for_each_other(folder: Path, said: str) -> None:
    assert {60 <= report["timeout"] <= 30 * 60 for report in reports(folder, "whole")} == {True}


def test_one_rank_that_is_asked_stops_all(folder: Path, said: str) -> None:
    ends = {report["end"].split(";")[0] for report in reports(folder, "stopped")}
    assert ends == {"stopped by SIGTERM after step 4"}
    state = checkpoint(folder / "stopped")
    assert (state["step"], len(state["sampler"]), len(state["rng"])) == (4, 2, 2)
    assert_golden(folder / "stopped", 4)


def test_more_ranks_go_on_in_a_new_order(folder: Path, said: str) -> None:
    warning = "read in a new order, not the one that the checkpoint would have gone on with"
    assert said.count(f"jsonl.train is {warning} (ranks: 1 before, 2 now)") == 1
    assert [line["step"] for line in log_of(folder / "joined") if "loss" in line] == [4, 5, 6]


def test_a_rank_that_falls_over_takes_all_with_it(folder: Path, said: str) -> None:
    """It does so at once, not when the others have waited long enough: `communicate` has a time-out."""
    assert re.search(r"modes\.py\", line \d+, in watch_update\n", said)
    assert "RuntimeError: rank 1 fell over" in said
    assert len(log_of(folder / "fallen")) == 2
    assert not (folder / "fallen.0.json").exists()


def test_sigterm_to_torchrun(folder: Path, caplog) -> None:
    """The command that a user types, with workers; the launcher is asked to stop. One process goes on."""
    config = write_config(folder, "long", ranks=2, epochs=10_000, num_workers=1)
    with modes.launched(*modes.TORCHRUN, "train.py", "--cfg-path", str(config)) as run:
        for line in run.stdout:
            if f"step {2 * UPDATES}/" in line:
                break
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    (step,) = map(int, re.findall(r"stopped by SIGTERM after step (\d+)", said))
    state = checkpoint(folder / "long")
    assert (state["step"], len(state["sampler"])) == (step, 2)
    assert [line["step"] for line in log_of(folder / "long")] == list(range(1, step + 1))
    assert_golden(folder / "long")

    epochs = step // (UPDATES // 2) + 1
    with caplog.at_level(logging.WARNING):
        modes.train(write_config(folder, "long", epochs=epochs, num_workers=1, resume_ckpt_path="auto"))
    assert "jsonl.train is read in a new order" in caplog.text and "ranks: 2 before, 1 now" in caplog.text
    assert [line["step"] for line in log_of(folder / "long")] == list(range(1, epochs * (UPDATES // 2) + 1))

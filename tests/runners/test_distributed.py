"""Several ranks: who reads what, who is asked to stop, who falls over, and who goes on."""

import logging
import re
import signal

import pytest

from tests.support import modes
from tests.support.modes import (
    TOGETHER,
    UPDATES,
    Runs,
    assert_golden,
    checkpoint,
    seen_by,
    updates_of,
    write_config,
)


def test_ranks_read_what_one_process_would_and_nothing_twice(runs: Runs) -> None:
    (alone,) = seen_by(runs, "alone")
    first, second = seen_by(runs, "two")
    assert len(first["trained"]) == len(second["trained"]) == len(alone["trained"]) == UPDATES
    for one, two, together in zip(first["trained"], second["trained"], alone["trained"], strict=True):
        assert len(one) == len(two) == TOGETHER // 2
        assert sorted(one + two) == sorted(together)
    assert len({key for keys in alone["trained"] for key in keys}) == UPDATES * TOGETHER


def test_ranks_evaluate_half_each(runs: Runs) -> None:
    first, second = (seen["captions"] for seen in seen_by(runs, "two"))
    # Before training, at two epochs' ends, after training.
    assert [len(captions) for captions in first] == [6, 4, 4, 6]
    assert [len(captions) for captions in second] == [5, 3, 3, 5]
    assert sorted([*first[0], *second[0]]) == sorted(f"test_{number}.png" for number in range(11))


def test_ranks_log_only_on_the_first(runs: Runs) -> None:
    assert runs.said.count("/two/checkpoint_0.pth (the best so far)") == 1
    assert runs.said.count("INFO resuming") == 4  # in as many runs


def test_ranks_wait_minutes_for_each_other(runs: Runs) -> None:
    for seen in seen_by(runs, "two"):
        assert 60 <= seen["waits"] <= 30 * 60


def test_ranks_stop_together_when_one_is_asked(runs: Runs) -> None:
    first, second = seen_by(runs, "stopped")
    assert first["end"].split(";")[0] == second["end"].split(";")[0] == "stopped by SIGTERM after step 4"
    state = checkpoint(runs.folder / "stopped", "checkpoint_step_4.pth")
    assert (state["step"], len(state["sampler"]), len(state["rng"])) == (4, 2, 2)
    # The run that went on from there did the rest.
    assert [len(seen["trained"]) for seen in seen_by(runs, "stopped_goes_on")] == [2, 2]


def test_ranks_stop_an_evaluation_together_when_one_is_asked(runs: Runs) -> None:
    """The one at the first epoch's end; it is owed to whoever goes on."""
    first, second = seen_by(runs, "evaluating")
    assert first["end"].split(";")[0] == second["end"].split(";")[0] == "stopped by SIGTERM after step 3"
    # The one that is asked gives up at once.
    assert [len(captions) for captions in first["captions"]] == [4] and second["captions"] == []
    state = checkpoint(runs.folder / "evaluating")
    assert state["step"] == 3 and state["progress"]["owes_validation"]


def test_ranks_in_another_number_resume_in_a_new_order(runs: Runs) -> None:
    warning = "read in a new order, since the checkpoint's cannot be resumed"
    assert runs.said.count(f"jsonl.train is {warning} (ranks: 1 before, 2 now)") == 1
    assert [update["step"] for update in updates_of(runs.folder / "two_after_alone")] == [4, 5, 6]


def test_ranks_end_together_when_one_fails(runs: Runs) -> None:
    """It does so at once, not when the others have waited long enough: the test would not wait for that."""
    assert runs.code == 1
    assert re.search(r"modes\.py\", line \d+, in watch_update\n", runs.said)
    assert "RuntimeError: rank 1 fell over" in runs.said
    assert len(updates_of(runs.folder / "fallen")) == 2
    assert seen_by(runs, "fallen") == []


@pytest.mark.slow
def test_ranks_stop_by_sigterm_to_torchrun(runs: Runs, caplog) -> None:
    """The command that a user types, with workers; the launcher is asked to stop. One process goes on."""
    config = write_config(runs.folder, "long", ranks=2, epochs=10_000, num_workers=1)
    with modes.launched(*modes.TORCHRUN, "train.py", "--cfg-path", str(config)) as run:
        for line in run.stdout:
            if f"step {2 * UPDATES}/" in line:
                break
        run.send_signal(signal.SIGTERM)
        said, _ = run.communicate(timeout=120)
    assert run.returncode != 0
    (step,) = map(int, re.findall(r"stopped by SIGTERM after step (\d+)", said))
    state = checkpoint(runs.folder / "long")
    assert (state["step"], len(state["sampler"])) == (step, 2)
    updates = updates_of(runs.folder / "long")
    assert [update["step"] for update in updates] == list(range(1, step + 1))
    assert_golden(updates[:UPDATES])

    epochs = step // (UPDATES // 2) + 1
    with caplog.at_level(logging.WARNING):
        modes.train(write_config(runs.folder, "long", epochs=epochs, num_workers=1, resume_ckpt_path="auto"))
    assert "jsonl.train is read in a new order" in caplog.text and "ranks: 2 before, 1 now" in caplog.text
    steps = [update["step"] for update in updates_of(runs.folder / "long")]
    assert steps == list(range(1, epochs * (UPDATES // 2) + 1))

"""A run that is killed or stopped, again and again, ends with the very bits of one that was not."""

import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from minigpt4.runners.checkpoints import BEST, LATEST, CheckpointFolder
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.attempts import Attempts, End, eventful, left_behind

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="attempts are forked off")


class Bench:
    """Runs of one kind, and what one of them leaves behind that nobody disturbs."""

    def __init__(self, attempts: Attempts, shapes: Path, folder: Path, workers: int) -> None:
        self.attempts = attempts
        self.shapes = shapes
        self.workers = workers
        end = self.attempt(folder / "undisturbed")
        assert end.code == 0, end.said
        self.seconds = end.seconds
        self.left = left_behind(folder / "undisturbed")

    def attempt(self, folder: Path, **how: Any) -> End:
        """Begin the run in that folder, or go on with it."""
        end = self.attempts(eventful(self.shapes, folder, num_workers=self.workers), **how)
        # The workers of one that was killed may complain. And before the run takes care of signals, Python
        # loses a Ctrl-C that comes within a __del__, and says so.
        lost = end.said.count("Exception ignored in")
        assert end.code < 0 or end.said.count("Traceback") == lost, end.said
        check_checkpoints(folder)
        return end

    def disturb(
        self, folder: Path, ways: Sequence[dict[str, Any]], compared: Sequence[str] = ()
    ) -> list[End]:
        """End a run in each of those ways, one after the other, and go on with it each time.

        Where it comes to its own end before, another begins.

        Args:
            folder: for the runs.
            ways: what `attempt` takes.
            compared: what must be as the undisturbed run left it, at each end; all of it if empty.
        """
        ends: list[End] = []
        run = 0
        for how in [*ways, {}]:
            ends.append(self.attempt(folder / f"job{run}", **how))
            if ends[-1].code == 0:
                left = left_behind(folder / f"job{run}")
                for name in compared or left.keys() | self.left.keys():
                    assert left.get(name) == self.left.get(name), name
                run += 1
        assert ends[-1].code == 0, ends[-1].said
        return ends

    def at_random(self, times: int, number: int) -> list[dict[str, Any]]:
        """Signals, from before the first step to some way behind the middle of a run."""
        moments = random.Random(times)
        return [{"number": number, "seconds": self.seconds * moments.uniform(0.1, 0.7)} for _ in range(times)]


def check_checkpoints(folder: Path) -> None:
    """None was damaged, and the latest is the one to go on from."""
    checkpoints = list(folder.glob("*.pth"))
    for path in checkpoints:
        read_checkpoint(path)
    newest = CheckpointFolder(folder, 1).newest()
    assert newest == folder / LATEST or not (folder / LATEST).exists()


@pytest.fixture(scope="module")
def attempts() -> Iterator[Attempts]:
    with Attempts() as started:
        yield started


@pytest.fixture(scope="module")
def with_workers(attempts, shapes, tmp_path_factory) -> Bench:
    return Bench(attempts, shapes, tmp_path_factory.mktemp("with_workers"), workers=2)


@pytest.fixture(scope="module")
def without_workers(attempts, shapes, tmp_path_factory) -> Bench:
    return Bench(attempts, shapes, tmp_path_factory.mktemp("without_workers"), workers=0)


def killed(ends: Sequence[End]) -> int:
    assert {end.code for end in ends} <= {0, -signal.SIGKILL}, [end.said for end in ends if end.code > 0]
    return sum(end.code == -signal.SIGKILL for end in ends)


@pytest.mark.slow
def test_kill_at_random_moments_loses_nothing(with_workers, tmp_path) -> None:
    ends = with_workers.disturb(tmp_path, with_workers.at_random(10, signal.SIGKILL))
    assert killed(ends) >= 5


@pytest.mark.slow
def test_kill_while_it_writes_loses_nothing(without_workers, tmp_path) -> None:
    changes = random.Random(0)
    ends = without_workers.disturb(tmp_path, [{"change": changes.randrange(1, 60)} for _ in range(12)])
    assert killed(ends) >= 8


@pytest.mark.parametrize("tail", ['{"step": 99, "lo', "\0" * 80], ids=["part", "zeros"])
def test_resume_after_a_power_cut_has_torn_a_line(without_workers, tmp_path, tail) -> None:
    """No kill can do that: a line is written in one go."""
    assert killed([without_workers.attempt(tmp_path / "job0", change=60)])
    with (tmp_path / "job0" / "log.jsonl").open("a") as log:
        log.write(tail)
    without_workers.disturb(tmp_path, [])


def test_resume_skips_a_damaged_newest_checkpoint(without_workers, tmp_path) -> None:
    """It goes on from the one before, and everything after it is made again."""
    assert killed([without_workers.attempt(tmp_path / "job0", change=100)])
    with (tmp_path / "job0" / LATEST).open("rb+") as file:
        file.truncate(10_000)
    (end,) = without_workers.disturb(tmp_path, [])
    assert "skipping a damaged checkpoint" in end.said


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stop_at_random_moments_loses_nothing(with_workers, tmp_path, number) -> None:
    """Checkpoints of other steps are kept then, but the last and the best are the same."""
    compared = [LATEST, BEST, "log.jsonl", "report"]
    ends, stopped = [], []
    for times in range(2, 12):  # on a busy machine every moment of the first may lie before the first step
        (tmp_path / str(times)).mkdir()
        moments = with_workers.at_random(times, number)
        ends += with_workers.disturb(tmp_path / str(times), moments, compared)
        stopped = [end for end in ends if "once more ends it now" in end.said and end.code != 0]
        if stopped:
            break
    assert stopped
    for end in stopped:
        assert end.code == 128 + number
        assert f"stopped by {signal.Signals(number).name} after step " in end.said
    # Before training begins nothing can be saved.
    assert {end.code for end in ends} <= {128 + number, 0, -signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kill_at_hundreds_of_random_moments_loses_nothing(with_workers, tmp_path) -> None:
    ends = with_workers.disturb(tmp_path, with_workers.at_random(300, signal.SIGKILL))
    assert killed(ends) >= 150


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("begun", [0, 100])
def test_kill_before_every_single_change_loses_nothing(without_workers, tmp_path, begun) -> None:
    """Of a run from its beginning to its end, and of one that goes on from the middle."""
    if begun:
        assert killed([without_workers.attempt(tmp_path / "begun", change=begun)])
    for number in count(1):
        runs = tmp_path / str(number)
        runs.mkdir()
        if begun:
            shutil.copytree(tmp_path / "begun", runs / "job0")
        ends = without_workers.disturb(runs, [{"change": number}])
        if not killed(ends):
            break
        shutil.rmtree(runs)
    assert number > 80

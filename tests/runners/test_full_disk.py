"""A disk that fills up while a run writes: one clear line, nothing half, and with room again it goes on."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.errors import CheckpointError, TrainingError
from minigpt4.common.logger import JsonLines, write_json
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.attempts import before_call, eventful, left_behind
from tests.support.runs import train

KIB = 1024
SHORT = {"max_epoch": 1, "valid_splits": []}  # settings of a run


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, of 16 MiB in memory."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"there is no mount ({error})")
    if done.returncode:
        pytest.skip(f"a small file system cannot be made: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def leave_room(disk: Path, room: int) -> None:
    """Fill the disk but for so many bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - room, 1))


def check_what_is_left(job: Path) -> None:
    assert not list(job.rglob(".*.part"))
    for path in job.glob("*.pth"):
        read_checkpoint(path)
    for line in (job / "log.jsonl").read_text().splitlines():
        json.loads(line)
    for path in job.rglob("*.png"):
        assert path.read_bytes().endswith(b"IEND\xaeB\x60\x82")


def test_training_on_a_small_disk_ends_with_one_line(shapes, tmp_path, small_disk, monkeypatch) -> None:
    """It fills up in the first step, again and again, with room for: nothing; lines of the log; half a
    checkpoint; a whole one, and again; a picture."""
    job, full = small_disk / "job", []
    for room in (0, 4 * KIB, 700 * KIB, 1340 * KIB, 1340 * KIB, 600 * KIB):
        with monkeypatch.context() as patch:
            before_call(patch, "train_step", 1, partial(leave_room, small_disk, room))
            with pytest.raises((TrainingError, CheckpointError), match="No space left on device") as error:
                train(eventful(shapes, job))
        assert str(job) in str(error.value) and "--resume auto" in str(error.value)
        check_what_is_left(job)
        (small_disk / "filler").unlink()
        full.append(str(error.value).split(" could not be written")[0].rpartition("/")[2])
    assert {Path(name).suffix for name in full} == {".jsonl", ".pth", ".png"}
    train(eventful(shapes, job))
    train(eventful(shapes, tmp_path / "undisturbed"))
    assert left_behind(job) == left_behind(tmp_path / "undisturbed")


class Full(FileIO):
    """Takes a few bytes, and then none."""

    def write(self, data: bytes) -> int:
        if self.tell() > 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:7])


def test_json_lines_on_a_full_disk_leave_no_torn_line(tmp_path, monkeypatch) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    for step in range(2):
        log.write(step=step)
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Full(path, "a"))
    with pytest.raises(OSError, match=r"No space left on device: .*log\.jsonl"):
        log.write(step=2, keys=["a key that is long enough to be cut in the middle"])
    monkeypatch.undo()
    assert log.path.read_text() == '{"step": 0}\n{"step": 1}\n'


def test_report_on_a_full_disk_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    write_json(tmp_path / "report.json", {"loss": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "report.json", {"loss": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
    assert json.loads((tmp_path / "report.json").read_text()) == {"loss": 1}


@pytest.fixture(scope="module")
def undisturbed(shapes, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "job"
    train(eventful(shapes, folder, **SHORT))
    return left_behind(folder)


@pytest.mark.parametrize("name", ["log.jsonl", "loss.png", "checkpoint_step_2.pth", "report.json"])
def test_training_on_a_full_disk_says_so_in_one_line(
    shapes, tmp_path, monkeypatch, undisturbed, name
) -> None:
    """Without a file system of our own: the file, its temporary one too, cannot be written to."""
    job = tmp_path / "job"
    opened = Path.open

    def full(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if name in path.name and path.parent == job and set(mode) & set("wa+"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, mode, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises((TrainingError, CheckpointError), match=f"{name}.*No space left") as error:
            train(eventful(shapes, job, **SHORT))
    assert "--resume auto" in str(error.value)
    train(eventful(shapes, job, **SHORT))
    assert left_behind(job) == undisturbed

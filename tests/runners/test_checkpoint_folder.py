"""The checkpoints of a run: how they are called, which are kept, and which of them it goes on from."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError
from minigpt4.runners.checkpoints import BEST, LATEST, CheckpointFolder
from minigpt4.weights.checkpoint import read_checkpoint, save_checkpoint


def save(folder: Path, step: int, *, keep: int = 2, epoch_end: bool = False, best: bool = False) -> Path:
    """In epochs of ten steps."""
    state = {"model": {"w": torch.full([2000], float(step))}, "epoch": (step - 1) // 10, "step": step}
    return CheckpointFolder(folder, keep).save(state, epoch_end=epoch_end, best=best)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def step_of(path: Path) -> int:
    return read_checkpoint(path)["step"]


def test_save_keeps_so_many_of_each_kind(tmp_path) -> None:
    """The ends of epochs are called as in the original: the first is number 0."""
    for step in (4, 8, 10, 14, 18, 20, 24, 28, 30):
        save(tmp_path, step, epoch_end=step % 10 == 0)
    assert names(tmp_path) == {
        *("checkpoint_1.pth", "checkpoint_2.pth"),
        *("checkpoint_step_24.pth", "checkpoint_step_28.pth", LATEST),
    }
    assert step_of(tmp_path / LATEST) == step_of(tmp_path / "checkpoint_2.pth") == 30


def test_save_keeps_the_best_under_its_second_name(tmp_path) -> None:
    save(tmp_path, 4)
    assert BEST not in names(tmp_path)
    for step in (8, 9, 14, 18):
        save(tmp_path, step, keep=1, best=step in (8, 9))
    assert names(tmp_path) == {"checkpoint_step_18.pth", LATEST, BEST}
    assert (step_of(tmp_path / BEST), step_of(tmp_path / LATEST)) == (9, 18)


def test_save_compares_numbers_as_numbers(tmp_path) -> None:
    for step in (8, 9, 10, 11, 100):
        save(tmp_path, step)
    assert names(tmp_path) == {"checkpoint_step_11.pth", "checkpoint_step_100.pth", LATEST}


def test_save_drops_what_came_after_the_checkpoint_resumed_first(tmp_path) -> None:
    for step in (50, 60, 70, 20):
        save(tmp_path, step)
    assert names(tmp_path) == {"checkpoint_step_20.pth", "checkpoint_step_70.pth", LATEST}
    assert step_of(tmp_path / LATEST) == 20
    save(tmp_path, 25)
    assert names(tmp_path) == {"checkpoint_step_20.pth", "checkpoint_step_25.pth", LATEST}


def test_save_removes_what_a_kill_left_too_many_of(tmp_path) -> None:
    for step in (2, 4, 6):
        save(tmp_path, step, keep=9)
    save(tmp_path, 10, epoch_end=True)
    assert names(tmp_path) == {
        *("checkpoint_step_4.pth", "checkpoint_step_6.pth"),
        *("checkpoint_0.pth", LATEST),
    }


def test_remove_leftovers_removes_what_a_kill_left_too_many_of(tmp_path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, keep=9, epoch_end=True)
    CheckpointFolder(tmp_path, 2).remove_leftovers(2, 30)
    assert names(tmp_path) == {"checkpoint_1.pth", "checkpoint_2.pth", LATEST}


@pytest.mark.skipif(os.name != "posix", reason="inodes")
def test_save_links_second_names(tmp_path) -> None:
    path = save(tmp_path, 4, best=True)
    assert path.samefile(tmp_path / LATEST) and path.samefile(tmp_path / BEST)
    save(tmp_path, 8)
    assert path.samefile(tmp_path / BEST) and not path.samefile(tmp_path / LATEST)


def test_save_copies_where_the_file_system_has_no_links(tmp_path, monkeypatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    for step in (4, 8, 12):
        save(tmp_path, step, keep=1, best=step == 8)
    assert names(tmp_path) == {"checkpoint_step_12.pth", LATEST, BEST}
    assert (step_of(tmp_path / BEST), step_of(tmp_path / LATEST)) == (8, 12)


def test_to_resume_finds_nothing_in_a_new_folder(tmp_path) -> None:
    (tmp_path / "model.pth").touch()
    assert CheckpointFolder(tmp_path, 2).newest() is None
    assert CheckpointFolder(tmp_path / "not there", 2).newest() is None


def cut(path: Path) -> None:
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size // 2)


def lose_the_middle(path: Path) -> None:
    """A page of zeros, as a power cut leaves them; torch reads such a file without a word."""
    with path.open("rb+") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(512))
    assert not read_checkpoint(path)["model"]["w"].all()


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, lose_the_middle, empty])
def test_newest_skips_damaged_checkpoints(tmp_path, caplog, damage) -> None:
    for step in (4, 8, 10):
        save(tmp_path, step, epoch_end=step == 10, best=step == 4)
    folder = CheckpointFolder(tmp_path, 2)
    assert folder.newest() == tmp_path / LATEST and not caplog.records
    damage(tmp_path / LATEST)  # and its other name
    assert folder.newest() == tmp_path / "checkpoint_step_8.pth"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert str(tmp_path / LATEST) in caplog.text and "damaged" in caplog.text
    damage(tmp_path / "checkpoint_step_8.pth")
    assert folder.newest() == tmp_path / "checkpoint_step_4.pth"
    (tmp_path / "checkpoint_step_4.pth").unlink()
    assert folder.newest() == tmp_path / BEST
    damage(tmp_path / BEST)
    with pytest.raises(CheckpointError, match=f"none of the 4 checkpoints in {tmp_path} can be read"):
        folder.newest()


def test_newest_is_the_latest_whatever_the_clock_says(tmp_path) -> None:
    for step in (4, 8):
        save(tmp_path, step)
    os.utime(tmp_path / LATEST, (0, 0))
    assert step_of(CheckpointFolder(tmp_path, 2).newest()) == 8


def test_remove_leftovers_removes_what_a_killed_writer_left(tmp_path) -> None:
    save(tmp_path, 4)
    (tmp_path / "samples").mkdir()
    leftovers = [".checkpoint_0.pth.123.part", ".log.jsonl.7.part", ".writable_x7.part"]
    for name in (*leftovers, "samples/.step_000004.png.7.part"):
        (tmp_path / name).write_bytes(b"PK")
    CheckpointFolder(tmp_path, 2).remove_leftovers(0, 4)
    assert names(tmp_path) == {"checkpoint_step_4.pth", LATEST, "samples"}
    assert not names(tmp_path / "samples")


@pytest.mark.skipif(os.name != "posix", reason="no folder can be flushed")
def test_save_flushes_everything_before_it_removes_anything(tmp_path, monkeypatch) -> None:
    """Else a power cut could take the new one and the old ones."""
    save(tmp_path, 4, keep=1)
    told: list[str] = []

    def tell(owner: Any, name: str, shown: Callable[..., str]) -> None:
        do = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kw: (told.append(shown(*args)), do(*args, **kw))[1])

    tell(os, "fsync", lambda file: "flush " + ("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"))
    tell(Path, "replace", lambda _, new: f"name {new.name}")
    tell(Path, "unlink", lambda path: f"remove {path.name}")
    save(tmp_path, 8, keep=1, best=True)
    told = [what for what in told if not what.endswith(".part")]
    assert told == [
        *("flush file", "name checkpoint_step_8.pth", "flush folder"),
        *("flush file", f"name {BEST}", "flush file", f"name {LATEST}", "flush folder"),
        "remove checkpoint_step_4.pth",
    ]


@pytest.mark.parametrize("piece", [1, 2, 6])
def test_save_on_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, piece) -> None:
    """torch reports something else then: `unexpected pos 64 vs 0`."""
    save(tmp_path, 4)
    write = torch.save

    class Filling:
        def __init__(self, file: Any) -> None:
            self.file, self.left, self.flush = file, piece, file.flush

        def write(self, data: bytes) -> int:
            self.left -= 1
            if self.left <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.file.write(data)

    monkeypatch.setattr(torch, "save", lambda state, file: write(state, Filling(file)))
    with pytest.raises(CheckpointError, match=r"checkpoint_step_8.pth could not be written: .*No space left"):
        save(tmp_path, 8, best=True)
    assert names(tmp_path) == {"checkpoint_step_4.pth", LATEST}
    assert step_of(CheckpointFolder(tmp_path, 2).newest()) == 4


@pytest.mark.parametrize("call", [1, 2, 3, 4, 5])
def test_save_on_a_disk_that_is_full_when_flushed_leaves_what_was_there(tmp_path, monkeypatch, call) -> None:
    """As quotas and network file systems do: at that moment some of the names may be new already."""
    save(tmp_path, 4, best=True)
    flush, left = os.fsync, [call]

    def fail(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match="Disk quota exceeded"):
        save(tmp_path, 8, best=True)
    assert not list(tmp_path.glob(".*"))
    for path in tmp_path.iterdir():
        assert step_of(path) in (4, 8)
    assert step_of(CheckpointFolder(tmp_path, 2).newest()) == (4 if call < 5 else 8)


def test_save_does_not_take_an_error_of_torch_for_one_of_the_disk(tmp_path) -> None:
    with pytest.raises(RuntimeError, match="nothing to do with a disk"):
        save_checkpoint({"model": {"w": Stubborn()}}, tmp_path / "c.pth")
    assert not names(tmp_path)


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("nothing to do with a disk")


def test_save_leaves_no_part_of_a_copy_that_fails(tmp_path, monkeypatch) -> None:
    save(tmp_path, 4)

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def fill(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(shutil, "copyfile", fill)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(tmp_path, 8)
    assert names(tmp_path) == {"checkpoint_step_4.pth", "checkpoint_step_8.pth", LATEST}
    assert step_of(tmp_path / LATEST) == 4

"""One process at a time, and never one that is dead."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from minigpt4.common import lock as module
from minigpt4.common.lock import Held, Lock

HOLD = "import sys; from minigpt4.common.lock import Lock; from pathlib import Path\n"
HOLD += "lock = Lock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); input(); lock.release()"


@contextmanager
def holder(path: Path, code: str = HOLD) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the lock until it is told to end."""
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_lock_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path) as process:
        for _ in range(2):
            with pytest.raises(Held, match=rf"^process {process.pid} on "):
                Lock(path).acquire()
        process.communicate("\n")
        assert not path.exists()
        with Lock(path):
            assert path.read_text().split() == [module._host(), str(os.getpid())]
    assert list(tmp_path.iterdir()) == []


def test_lock_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    """Though its children live on, as a loader's workers do for some seconds."""
    path = tmp_path / ".lock"
    forking = HOLD.replace("print(", "import os, time; os.fork() or time.sleep(60); print(")
    with holder(path, forking) as process:
        process.kill()
        process.wait()
        assert path.exists()
        with Lock(path):
            assert str(os.getpid()) in path.read_text()


def test_lock_is_held_against_the_same_process_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with Lock(tmp_path / ".lock"):
        for path in (tmp_path / ".lock", tmp_path / "link" / ".lock"):
            with pytest.raises(Held, match="this process"):
                Lock(path).acquire()
    with Lock(tmp_path / ".lock"):
        pass


@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("knows_locks", [True, False])
def test_lock_of_another_machine_is_free_when_nobody_touches_it(
    tmp_path: Path, monkeypatch, alive: bool, knows_locks: bool
) -> None:
    """Where the file system does not pass locks on, or has none."""
    monkeypatch.setattr(module, "WATCHED", 0.4)
    monkeypatch.setattr(module, "BEAT", 0.02)
    path = tmp_path / ".lock"
    path.write_text("elsewhere 17\n")
    released = module.threading.Event()
    if not knows_locks:
        monkeypatch.setattr(module, "_lock", lambda _: (_ for _ in ()).throw(OSError(37, "no locks")))
        path.write_text(f"{module._host()} 17\n")
    if alive:
        module.threading.Thread(target=Lock(path)._beat, args=(released,)).start()
        with pytest.raises(Held, match=r"^process 17 on "):
            Lock(path).acquire()
        released.set()
    else:
        with Lock(path):
            assert path.read_text().split()[1] == str(os.getpid())


def test_lock_stays_where_its_folder_was(tmp_path: Path) -> None:
    folder, moved = tmp_path / "job", tmp_path / "job.1"
    folder.mkdir()
    (folder / "kept").touch()
    with Lock(folder / ".lock") as lock:
        lock.move_folder(moved)
        assert [path.name for path in moved.iterdir()] == ["kept"]
        assert [path.name for path in folder.iterdir()] == [".lock"]
        with pytest.raises(Held):
            Lock(folder / ".lock").acquire()
    assert list(folder.iterdir()) == []


def test_lock_whose_file_is_removed_by_its_holder_meanwhile(tmp_path: Path, monkeypatch) -> None:
    """What is locked then is a file without a name, which locks nobody out."""
    path, lock, removed = tmp_path / ".lock", module._lock, []

    def lock_late(file: module.IO[bytes]) -> None:
        if not removed:
            removed.append(path.unlink())
        lock(file)

    monkeypatch.setattr(module, "_lock", lock_late)
    with Lock(path):
        assert str(os.getpid()) in path.read_text() and len(removed) == 1

"""Lock files, which are free again when their process dies."""

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO, ClassVar

from minigpt4.common.errors import UserError

log = logging.getLogger(__name__)

# The holder touches its file at this interval, and others watch it for this long.
BEAT = 5.0  # seconds
WATCHED = 16.0
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Held(UserError):
    """Another process holds the lock; the message says which."""


class Lock:
    """A file lock. The operating system releases it when the process ends, however it ends.

    This works between processes of a machine, and between machines on file systems with distributed locks
    (such as NFS). For other file systems, the file contains the holder's host name and is touched every few
    seconds: a process on another machine watches it for a while, and takes it only if it is not touched.

    Args:
        path: the file; it only exists while it is held, or after a kill.
    """

    _own: ClassVar[set[Path]] = set()  # of this process, which the system would not exclude

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._file: IO[bytes] | None = None
        self._key = self.path
        self._released = threading.Event()

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, without waiting.

        Raises:
            Held: if another process has it.
            OSError: if the file cannot be written.
        """
        key = Path(os.path.realpath(self.path))
        if key in self._own:
            raise Held("this process")
        owner = _owner(self.path)
        if owner and owner[0] != _host():
            self._refuse_if_touched(owner)
        while self._file is None:
            file = self.path.open("a+b")
            try:
                self._take(file, owner)
            finally:
                if self._file is None:
                    file.close()
        self._own.add(key)
        self._key, self._released = key, threading.Event()
        threading.Thread(target=self._beat, args=(self._released,), daemon=True).start()

    def _take(self, file: IO[bytes], owner: tuple[str, str] | None) -> None:
        """Lock an open file and keep it, unless it was removed since it was opened."""
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD:
                raise Held(_described(_owner(self.path))) from error
            if owner:  # this file system has no locks
                self._refuse_if_touched(owner)
        if _is_same(file, self.path):
            file.truncate(0)
            file.write(f"{_host()} {os.getpid()}\n".encode())
            file.flush()
            self._file = file

    def _refuse_if_touched(self, owner: tuple[str, str]) -> None:
        log.info("%s: held by %s; checking for %.0f s if it is alive", self.path, _described(owner), WATCHED)
        if _is_touched(self.path):
            raise Held(_described(owner))

    def release(self) -> None:
        """Release the lock and remove the file; no effect if it is not held."""
        if self._file is None:
            return
        self._released.set()
        if sys.platform == "win32":  # an open file cannot be removed there
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._file.close()
        self._file = None
        self._own.discard(self._key)

    def move_folder(self, target: Path) -> None:
        """Rename the file's folder to `target`, and hold a new file in a new folder of the old name.

        Raises:
            Held: if another process took the new one first.
        """
        moved = Lock(target / self.path.name)
        if sys.platform == "win32":  # a folder with an open file cannot be renamed there
            self.release()
        self.path.parent.rename(target)
        if self._file is not None:
            moved._file, moved._released, self._file = self._file, self._released, None
            self._own.discard(self._key)
        try:
            self.path.parent.mkdir(exist_ok=True)
            self.acquire()
        finally:
            moved.release()

    def _beat(self, released: threading.Event) -> None:
        path = self.path
        while not released.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(path)


def _lock(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # beyond the content: on Windows, locked bytes cannot be read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Not flock: the data workers would inherit it, and hold it some seconds longer than the process.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(file: IO[bytes], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _host() -> str:
    return socket.gethostname().replace(" ", "-") or "localhost"


def _owner(path: Path) -> tuple[str, str] | None:
    """Host and process id in the file."""
    with contextlib.suppress(OSError):
        host, _, process = path.read_bytes()[:300].decode("utf-8", "replace").strip().partition(" ")
        if process.isdigit():
            return host, process
    return None


def _described(owner: tuple[str, str] | None) -> str:
    return f"process {owner[1]} on {owner[0]}" if owner else "another process"


def _is_touched(path: Path) -> bool:
    """Whether the file is touched while we watch it."""
    begun = _touched_at(path)
    end = time.monotonic() + WATCHED
    while begun is not None and time.monotonic() < end:
        time.sleep(min(WATCHED / 8, 1))
        if _touched_at(path) != begun:
            return True
    return False


def _touched_at(path: Path) -> int | None:
    # Opening it makes NFS ask the server.
    with contextlib.suppress(OSError), path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns
    return None

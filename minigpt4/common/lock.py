"""Files that one process at a time holds, whatever happens to it."""

import contextlib
import errno
import logging
import os
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar

from minigpt4.common.errors import UserError

log = logging.getLogger(__name__)

# The holder touches its file so often, and for so long a stranger watches whether it does.
BEAT = 5.0  # seconds
WATCHED = 16.0
_HELD = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Held(UserError):
    """Somebody else holds the lock; the message says who."""


class Lock:
    """A file that one process holds. The system frees it when that process ends, however it ends.

    That holds for all processes of a machine, and between machines on file systems that pass locks on (NFS
    does). For others, the holder's name stands in the file, and it touches the file every few seconds: who
    finds the name of another machine watches for a while, and takes the file only if it is left alone.

    Args:
        path: the file; it is there only while it is held, or after a kill.
    """

    _own: ClassVar[set[Path]] = set()  # of this process, which the system would let in again

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._file: IO[bytes] | None = None
        self._key = self.path
        self._released = threading.Event()

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock, without waiting for another holder to end.

        Raises:
            Held: if somebody else has it.
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
        """Lock an open file and keep it, unless its holder has removed it since it was opened."""
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _HELD:
                raise Held(_described(_owner(self.path))) from error
            if owner:  # this file system knows no locks
                self._refuse_if_touched(owner)
        if _is_same(file, self.path):
            file.truncate(0)
            file.write(f"{_host()} {os.getpid()}\n".encode())
            file.flush()
            self._file = file

    def _refuse_if_touched(self, owner: tuple[str, str]) -> None:
        log.info("%s names %s: looking for %.0f s whether it is alive", self.path, _described(owner), WATCHED)
        if _is_touched(self.path):
            raise Held(_described(owner))

    def release(self) -> None:
        """Free the lock and remove the file; nothing happens if it is not held."""
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
        """Rename the folder of the file to `target`; hold a new file in a new folder of the old name.

        Raises:
            Held: if somebody was faster at making that.
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

        file.seek(1 << 30)  # beyond what is read: Windows lets nobody read what is locked
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        # Not flock: the loader's workers would hold it too, and for some seconds longer than the process.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_same(file: IO[bytes], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _host() -> str:
    return socket.gethostname().replace(" ", "-") or "localhost"


def _owner(path: Path) -> tuple[str, str] | None:
    """Host and process that the file names."""
    with contextlib.suppress(OSError):
        host, _, process = path.read_bytes()[:300].decode("utf-8", "replace").strip().partition(" ")
        if process.isdigit():
            return host, process
    return None


def _described(owner: tuple[str, str] | None) -> str:
    return f"process {owner[1]} on {owner[0]}" if owner else "another process"


def _is_touched(path: Path) -> bool:
    """Whether somebody touches the file while it is watched."""
    begun = _touched_at(path)
    end = time.monotonic() + WATCHED
    while begun is not None and time.monotonic() < end:
        time.sleep(min(WATCHED / 8, 1))
        if _touched_at(path) != begun:
            return True
    return False


def _touched_at(path: Path) -> int | None:
    # Opened, not only looked at: NFS asks the server then.
    with contextlib.suppress(OSError), path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns
    return None

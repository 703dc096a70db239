"""Files that others may read, or that a kill may interrupt, while they are written."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from minigpt4.common.errors import ConfigError

# Files are read in such pieces: each costs a call of the system, and shards are read from slow disks.
BUFFER = 2**18
# What the system says where a disk, or a quota of it, is full.
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def expanded(path: str | Path) -> str:
    """A path as a user writes it: `~` is the home folder, `$NAME` a variable of the environment."""
    return os.path.expanduser(os.path.expandvars(path))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file to write to, beside `path`, that becomes `path` when the block ends.

    At every moment `path` is the old file or the complete new one, after a power cut too. Where the block
    fails, nothing is left of the new one.
    """
    path = Path(path)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno and str(error.filename or temporary) == str(temporary):
            error.filename = str(path)  # writing to a full disk does not name it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; a device or a pipe, which may never give a byte, is refused.

    Raises:
        OSError: naming the path.
    """
    # Without waiting: who opens a pipe for reading waits for whoever writes to it.
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        return os.fdopen(number, "rb", buffering=BUFFER)
    except OSError:
        os.close(number)
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether a disk was full, or a quota or limit of it reached."""
    return isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EFBIG)


def _beside(path: Path) -> Path:
    # Not mkstemp's: only their owner can read those.
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def require_writable(path: Path, key: str) -> None:
    """Make the folder of a file that `replacing` will write later, and check that it can be.

    Args:
        path: of the file.
        key: the argument that names it, for messages.

    Raises:
        ConfigError: if it is a folder or a device, or nothing can be written beside it.
    """
    path = path.absolute()
    if path.is_dir():
        raise ConfigError(f"{key} is {path}, which is a folder: please name a file in it")
    if path.exists() and not path.is_file():
        raise ConfigError(f"{key} is {path}, which is not a regular file")
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        temporary.unlink()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise ConfigError(f"{key}: {path} cannot be written: {error}") from error


def inside(folder: str | Path, name: str) -> Path:
    """The absolute path of what a file from outside names, below a folder.

    Absolute, because in the working folder a name such as `pipe:...` would be taken for a command. Links that
    lie in the folder are followed: the names come from strangers, the links from whoever keeps this disk.

    Raises:
        ValueError: as `check_inside`.
    """
    check_inside(name)
    return Path(os.path.abspath(folder), name)


def check_inside(name: str) -> None:
    """Raise ValueError if a name from a file of annotations is none, or leaves the folder it is joined to."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is not the name of a file")
    # Windows' rules know both separators, and drives.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} leaves the folder that it belongs to")

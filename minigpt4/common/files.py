"""Paths from users and files, atomic writes, and safe opening of files."""

import errno
import glob
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from minigpt4.common.errors import ConfigError, nearest

# Buffer for reading: each read is a system call, and shards are on slow disks.
BUFFER = 2**18
# What the system says where a disk, or a quota of it, is full.
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def expanded(path: str | Path) -> str:
    """Expand `~` and environment variables (`$NAME`) in a path."""
    return os.path.expanduser(os.path.expandvars(path))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: a temporary file beside `path`, which replaces `path` when the block ends.

    `path` is always the old file or the complete new one, even after a power failure. If the block fails, the
    temporary file is removed.
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
            error.filename = str(path)  # an error of a full disk has no file name
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Write a folder atomically: a temporary one beside `path`, which is renamed when the block ends.

    If the block fails, the temporary folder is removed.

    Raises:
        OSError: if `path` exists, or cannot be written.
    """
    path = Path(path).absolute()
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())
        if path.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def moved_name(folder: Path) -> Path:
    """Where a folder is moved to make place: `folder.1`, `folder.2`, ..., the first that is free."""
    number = 1
    while (name := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return name


def nearest_path(path: str | Path) -> str:
    """`; did you mean 'x'?` for a file or folder that is not there.

    It is where the path went when its folder was moved to a `moved_name`, or else what is named most like the
    part of the path that is wrong. Without such a one it is an empty string.
    """
    path = Path(path)
    moved = [folder / path.name for folder in _moved_folders(path.parent)]
    newest = max(filter(os.path.exists, moved), key=os.path.getmtime, default=None)
    if newest is not None:
        return f"; did you mean {str(newest)!r}?"
    while path.name and not os.path.isdir(path.parent):
        path = path.parent
    try:
        return nearest(path.name, os.listdir(path.parent))
    except OSError:  # it may not be looked into
        return ""


def _moved_folders(folder: Path) -> list[Path]:
    others = (
        folder.parent.glob(f"{glob.escape(folder.name)}.*")
        if folder.name and os.path.isdir(folder.parent)
        else ()
    )
    return [other for other in others if other.suffix[1:].isdecimal()]


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading; a device or a pipe, which may block forever, is an error.

    Raises:
        OSError: naming the path.
    """
    # Non-blocking: opening a pipe for reading waits for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        number = os.open(path, flags)
    except ValueError as error:  # a zero byte, or half of a character
        raise OSError(errno.EINVAL, "is not the name of a file", str(path)) from error
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
    # Not mkstemp: only the owner can read its files.
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def require_writable(path: Path, key: str) -> None:
    """Create the folder of a file that `replacing` will write later, and check that it is writable.

    Args:
        path: of the file.
        key: the argument, for messages.

    Raises:
        ConfigError: if it is a folder or a device, or its folder is not writable.
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


def require_new(path: Path, key: str) -> None:
    """Check that `new_folder` can write a folder later.

    Args:
        path: of the folder.
        key: the argument, for messages.

    Raises:
        ConfigError: if it exists, or its parent is not writable.
    """
    if path.exists():
        raise ConfigError(f"{key}: {path} exists already: please remove it, or name another folder")
    require_writable(path, key)


def inside(folder: str | Path, name: str) -> Path:
    """The absolute path of a name from an untrusted file, below a folder.

    Absolute, because a relative `pipe:...` would be taken for a command. Symbolic links in the folder are
    followed: the names are untrusted, the disk is not.

    Raises:
        ValueError: as `check_inside`.
    """
    check_inside(name)
    return Path(os.path.abspath(folder), name)


def check_inside(name: str) -> None:
    """Raise ValueError if a name from an untrusted file is empty or leaves its folder."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{name!r} is not the name of a file")
    # Windows' rules know both separators, and drives.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} leaves the folder that it belongs to")

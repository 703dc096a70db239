"""The output folder of a run: it must be writable, and no other run may use it."""

import contextlib
import errno
import tempfile
from pathlib import Path

from minigpt4.common import launch
from minigpt4.common.errors import ConfigError
from minigpt4.common.files import is_disk_full
from minigpt4.common.lock import Held, Lock


def check_output(folder: Path) -> None:
    """Check that the run's folder is writable, or can be made; it is not made yet.

    Raises:
        ConfigError: if it is not.
    """
    try:
        place = nearest_existing(folder)
        with tempfile.NamedTemporaryFile(dir=place, prefix=".writable_", suffix=".part") as probe:
            probe.write(bytes(4096))
            probe.flush()
    except NotADirectoryError as error:
        file = next(path for path in (folder, *folder.parents) if path.exists())
        raise ConfigError(f"run.output_dir is {str(folder)!r}, but {file} is a file, not a folder") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        full = "; free some space, or choose another folder" if is_disk_full(error) else ""
        raise ConfigError(
            f"run.output_dir: nothing can be written to {folder.absolute()}: {error}{full}"
        ) from error


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists.

    Raises:
        OSError: for a path that cannot be looked for, e.g. below a file.
        ValueError: for a name with a zero byte.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        with contextlib.suppress(FileNotFoundError):
            place.lstat()
            return place
    raise FileNotFoundError(errno.ENOENT, "no folder above it exists", str(folder))


def run_lock(folder: Path) -> Lock:
    """The lock of a run on its output folder."""
    return Lock(folder / ".lock")


def check_unused(folder: Path) -> None:
    """Raise ConfigError if another run is using the folder."""
    lock = run_lock(folder)
    if launch.rank() == 0 and lock.path.exists():  # the other ranks belong to the same run
        try:
            with lock:
                pass
        except Held as holder:
            raise in_use(folder, holder) from holder


def in_use(folder: Path, holder: object) -> ConfigError:
    """The error if another run is using the folder."""
    return ConfigError(
        f"run.output_dir: another run writes to {folder.absolute()} ({holder}): please wait until it ends, "
        "or choose another folder"
    )

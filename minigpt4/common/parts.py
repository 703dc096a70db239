"""Divides long work over processes: GPUs, machines, job arrays.

Each process computes its share and writes its part atomically. The one that finds all parts merges them;
missing parts are an error.
"""

import argparse
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from minigpt4.common import launch
from minigpt4.common.errors import ConfigError
from minigpt4.common.lock import Held, Lock

log = logging.getLogger(__name__)
T = TypeVar("T")

SLURM = "SLURM_ARRAY_TASK_{}"
# Missing parts named in a message.
NAMED = 10
_NAME = re.compile(r"\d{5}-of-(\d{5})\b.*")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--shard-index`, `--num-shards` and `--merge`."""
    group = parser.add_argument_group("share of the work (by default from SLURM's job array or torchrun)")
    group.add_argument("--shard-index", type=int, metavar="I", help="which share: 0 to N-1")
    group.add_argument(
        "--num-shards", type=int, metavar="N", help="number of shares; 1: everything in this process"
    )
    group.add_argument(
        "--merge",
        action="store_true",
        help="only merge the parts of N shares (the last one does this anyway)",
    )


@dataclass(frozen=True)
class Share:
    """One process's share of the work: every `count`-th item, from `index` on.

    Attributes:
        merge_only: it only merges the parts of all shares.
    """

    index: int = 0
    count: int = 1
    merge_only: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Share":
        """From the arguments, or SLURM's job array; divided further among the ranks of torchrun.

        Raises:
            ConfigError: for an index without a number, one out of bounds, or a job array with gaps.
        """
        given = vars(args)
        index, count, merge = (given.get(name) for name in ("shard_index", "num_shards", "merge"))
        if index is None and count is None:
            index, count = _of_slurm()
        if count is None:
            raise ConfigError("--shard-index needs --num-shards")
        if count < 1:
            raise ConfigError(f"--num-shards is {count}, it must be at least 1")
        if index is None and (count == 1 or merge):
            index = 0
        if index is None:
            index = _of_slurm()[0] if _of_slurm()[1] == count else None
        if index is None:
            raise ConfigError(f"--num-shards is {count}: please set --shard-index, too")
        if not 0 <= index < count:
            raise ConfigError(f"--shard-index is {index}, it must be from 0 to {count - 1}")
        if merge:
            return cls(0, count, merge_only=True)
        ranks = launch.world_size()
        share = cls(index * ranks + launch.rank(), count * ranks)
        if share.count > 1:
            log.info("this is share %d of %d", share.index, share.count)
        return share

    def take(self, items: Iterable[T]) -> Iterator[T]:
        """The items of this share."""
        return islice(items, self.index, None, self.count)


def _of_slurm() -> tuple[int, int]:
    """Index and size of SLURM's job array; (0, 1) without one."""
    names = ("ID", "MIN", "MAX", "COUNT", "STEP")
    texts = {name: os.environ.get(SLURM.format(name), "") for name in names}
    if not texts["ID"] or not texts["COUNT"]:
        return 0, 1
    try:
        number, count = int(texts["ID"]), int(texts["COUNT"])
        first, step = int(texts["MIN"] or 0), int(texts["STEP"] or 1)
        last = int(texts["MAX"] or first + step * (count - 1))
        index, rest = divmod(number - first, step)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"SLURM's variables of a job array cannot be read: {texts}") from error
    if rest or not 0 <= index < count or last != first + step * (count - 1):
        raise ConfigError(
            f"SLURM's job array ({', '.join(f'{name} {text}' for name, text in texts.items())}) has gaps: "
            "please set --shard-index and --num-shards"
        )
    return index, count


class Parts:
    """The parts of a file that is computed in shares: `OUT.parts/00003-of-00008.SUFFIX`.

    Args:
        out: the file.
        share: this process's.
        key: the argument that names the file, for messages.
    """

    def __init__(self, out: Path, share: Share, key: str) -> None:
        self.out, self.share, self.key = out, share, key
        self.folder = out.with_name(f"{out.name}.parts")

    def path(self, index: int | None = None) -> Path:
        """The path of a part; by default this share's."""
        index = self.share.index if index is None else index
        return self.folder / f"{index:05d}-of-{self.share.count:05d}{self.out.suffix}"

    @contextmanager
    def claimed(self) -> Iterator[Path]:
        """Lock this share's part, so that no other process computes it too.

        Raises:
            ConfigError: if one does, or there are parts of another number of shares.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(self.folder):
            match = _NAME.fullmatch(name)
            if match and int(match[1]) != self.share.count:
                raise ConfigError(
                    f"{self.key}: {self.folder} holds parts of {int(match[1])} shares, not of "
                    f"{self.share.count}: please remove it, or use that number"
                )
        try:
            with Lock(self.path().with_name(f".{self.path().name}.lock")):
                yield self.path()
        except Held as holder:
            raise ConfigError(f"{self.key}: {self.path()} is being computed by {holder}") from holder

    def merge(self, write: Callable[[list[Path]], None]) -> bool:
        """If all parts exist, have `write` create the file from them, and remove them.

        Args:
            write: takes the parts in order; if it raises, they are kept.

        Returns:
            Whether the file was created.

        Raises:
            ConfigError: for missing parts, if `merge_only`.
        """
        paths = [self.path(index) for index in range(self.share.count)]
        gaps = [str(index) for index, path in enumerate(paths) if not path.is_file()]
        if gaps:
            named = ", ".join(gaps[:NAMED]) + (", ..." if len(gaps) > NAMED else "")
            message = f"{self.folder}: {len(gaps)} of {len(paths)} parts are missing: {named}"
            if self.share.merge_only:
                raise ConfigError(f"{self.key}: {message}")
            log.info("%s; the last share to finish merges %s", message, self.out)
            return False
        lock = Lock(self.folder / ".merge.lock")
        try:
            lock.acquire()
        except (Held, FileNotFoundError) as error:  # or it is merged, and the folder removed
            log.info("%s is merged by another share (%s)", self.out, error)
            return False
        try:
            if not all(path.is_file() for path in paths):
                return False
            write(paths)
            for path in paths:
                path.unlink()
        finally:
            lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)
        return True

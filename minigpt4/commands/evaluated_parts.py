"""The records of an evaluation, noted batch by batch: what was killed goes on, and shares become one list."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.logger import to_json
from minigpt4.tasks.records import Record

# What is evaluated: control, data set, split.
Key = tuple[str, str, str]
Batches = dict[Key, list[list[Record]]]
Skips = Sequence[tuple[str, str]]  # a sample that was skipped, and the reason

PARTIAL = ".partial"


class Journal:
    """The records of one process. With a file, each batch is written as it is made.

    Attributes:
        batches: the records of each batch, by what is evaluated.
        skipped: what was skipped before these batches.
        finished: what is evaluated wholly.
    """

    def __init__(self) -> None:
        self.batches: Batches = {}
        self.skipped: dict[Key, list[tuple[str, str]]] = {}
        self.finished: set[Key] = set()
        self._file: IO[bytes] | None = None

    @classmethod
    @contextmanager
    def of_part(cls, path: Path, made: dict[str, Any]) -> Iterator["Journal"]:
        """The journal of a part; without an error, the part is there when the block ends.

        Args:
            path: of the part. What an earlier process noted beside it is gone on from.
            made: the settings that it depends on.

        Raises:
            ConfigError: if what was noted was made with others.
        """
        journal, partial = cls(), path.with_name(path.name + PARTIAL)
        if partial.exists():
            kept = journal._read(partial, made, torn=True)
            os.truncate(partial, kept)
        with partial.open("ab") as journal._file:
            if not partial.stat().st_size:
                journal._write({"made": made})
            yield journal
        os.replace(partial, path)

    def add(self, key: Key, records: list[Record], skipped: Skips = ()) -> None:
        """Append the records of the next batch, and what was skipped before it."""
        self.batches.setdefault(key, []).append(records)
        self.skipped.setdefault(key, []).extend(skipped)
        line = {"key": key, "records": [_fields(record) for record in records]}
        self._write(line | ({"skipped": skipped} if skipped else {}))

    def finish(self, key: Key) -> None:
        """Record that all batches of `key` are done."""
        self.batches.setdefault(key, [])
        self.finished.add(key)
        self._write({"key": key, "finished": True})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write(to_json(line))
            self._file.flush()

    def _read(self, path: Path, made: dict[str, Any], *, torn: bool) -> int:
        """Take what a file holds -> how many of its bytes are whole lines.

        Args:
            path: of a part, or of what was noted for one.
            made: the settings that it must have been made with.
            torn: the end of the file may be damaged; it is left out.
        """
        size = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                self._take(json.loads(line), path, made, first=not size)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                if torn:
                    break
                raise ConfigError(
                    f"--out: {path} is not part of a report, please remove it: {error}"
                ) from error
            size += len(line)
        return size

    def _take(self, line: Any, path: Path, made: dict[str, Any], *, first: bool) -> None:
        if first:
            if line["made"] != json.loads(json.dumps(made)):
                raise ConfigError(
                    f"--out: {path} was made with another config or other arguments: please remove it, or "
                    "name another --out"
                )
            return
        control, dataset, split = line["key"]
        key = (str(control), str(dataset), str(split))
        if "finished" in line:
            self.batches.setdefault(key, [])
            self.finished.add(key)
        else:
            self.batches.setdefault(key, []).append([Record(**one) for one in line["records"]])
            skipped = [(str(sample), str(reason)) for sample, reason in line.get("skipped", ())]
            self.skipped.setdefault(key, []).extend(skipped)


def read_part(path: Path, made: dict[str, Any]) -> Journal:
    """Read a part.

    Raises:
        ConfigError: if it is not one, or was made with other settings.
    """
    journal = Journal()
    journal._read(path, made, torn=False)
    if not journal.finished or {*journal.batches} != journal.finished:
        raise ConfigError(f"--out: {path} is not part of a report, please remove it: its end is missing")
    return journal


def in_order(parts: Sequence[Batches], key: Key) -> list[Record]:
    """The records of all parts, in the order of a single process.

    Args:
        parts: of all shares; a batch falls to each in turn.
        key: what was evaluated.

    Raises:
        DataError: if a part lacks it.
    """
    if any(key not in part for part in parts):
        raise DataError(f"--out: a part has no records of {'.'.join(key[1:])}")
    turns = zip_longest(*(part[key] for part in parts), fillvalue=[])
    return [record for turn in turns for record in chain(*turn)]


def _fields(record: Record) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key != "picture"}

"""The entries of annotation files, kept out of memory: JSON lines in a mapped file, made once by streaming.

A list of Visual Genome's five million regions takes gigabytes as Python objects, and each worker would get
a copy of it. So the entries of a large annotation file are written to a file beside it (or, where that folder
is read-only, to torch hub's cache), which all processes map into their memory. Those of a small file stay in
memory, as the same bytes.

A stored file holds the entries as JSON, one line each; then where each line ends, as int64; then a footer:
their number, and a digest of all that they were made from. A file with another digest is stale and written
anew. What it holds is as little trusted as the annotations: it is read as JSON.
"""

import hashlib
import io
import json
import logging
import mmap
import os
import struct
import sys
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from minigpt4.common.errors import DataError
from minigpt4.common.files import nearest_path, open_regular, replacing
from minigpt4.common.lock import Held, Lock

log = logging.getLogger(__name__)

IN_MEMORY = 8 * 2**20  # bytes of an annotation file whose entries are not worth a file
ENDS = 2**16  # bytes at both ends of an annotation file that are compared
SECONDS_BETWEEN_LOOKS = 0.5
_FOOTER = struct.Struct("<q32s")
_FORMAT = b"1"  # of the stored file; another number makes all stored files stale

Entries = Callable[[], Iterable[dict[str, Any]]]


class StoredEntries:
    """The entries of one annotation file.

    Args:
        content: as a stored file has it: bytes, or a mapped file.
        digest: of what the entries must have been made from.
        path: the mapped file, which other processes map again instead of being sent its content.

    Raises:
        ValueError: if it is damaged, or stale.
    """

    def __init__(self, content: bytes | mmap.mmap, digest: bytes, path: Path | None = None) -> None:
        if len(content) < _FOOTER.size:
            raise ValueError("it is too short")
        count, found = _FOOTER.unpack(content[-_FOOTER.size :])
        size = len(content) - _FOOTER.size - 8 * count
        if found != digest or count < 0 or size < 0:
            raise ValueError("it was made from something else")
        self._content, self._digest, self._path = content, digest, path
        self._ends = np.frombuffer(content, "<i8", count, offset=size)
        if (self._ends[-1] if count else 0) != size or (np.diff(self._ends, prepend=0) < 0).any():
            raise ValueError("its lines do not fill it")

    @classmethod
    def mapped(cls, path: Path, digest: bytes) -> "StoredEntries":
        """Those of a stored file. Raises OSError or ValueError."""
        with open_regular(path) as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), digest, path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None:
            return StoredEntries, (self._content, self._digest)
        return StoredEntries.mapped, (self._path, self._digest)

    def __len__(self) -> int:
        return len(self._ends)

    def entry(self, number: int) -> dict[str, Any]:
        """One entry, read anew. Raises DataError if its line is damaged."""
        start = self._ends[number - 1] if number else 0
        try:
            return json.loads(self._content[start : self._ends[number]])
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self._path} is damaged ({error}): please remove it") from error


class AnnotationStore(Sequence[dict[str, Any]]):
    """The entries of several annotation files, one after the other. Each access reads an entry anew."""

    def __init__(self, files: Sequence[StoredEntries]) -> None:
        self._files = files
        self._ends = list(accumulate(map(len, files)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = int(index) + len(self) * (index < 0)
        if not 0 <= number < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, number)
        return self._files[file].entry(number - (self._ends[file - 1] if file else 0))


def store(paths: Sequence[Path], entries: Entries, maker: type, options: Mapping[str, Any]) -> StoredEntries:
    """The entries of an annotation file; a large one is read only if that was not done before.

    Args:
        paths: of the annotations, which may be in several files; the first gives the stored file its name.
        entries: gives them, from the beginning.
        maker: the class that `entries` belongs to: when its source changes, the entries are made anew.
        options: what else they depend on.

    Raises:
        DataError: if the file is missing, or the entries can be stored nowhere; whatever `entries` raises.
    """
    path = paths[0]
    try:
        digest, size = _digest(paths, maker, options)
    except FileNotFoundError as error:
        missing = error.filename
        raise DataError(f"the annotation file {missing} does not exist{nearest_path(missing)}") from error
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    if size <= IN_MEMORY:
        file = io.BytesIO()
        write(file, entries(), digest)
        return StoredEntries(file.getvalue(), digest)
    name = (
        f"{path.name}.{_short(maker.__module__, maker.__qualname__, repr(sorted(options.items())))}.entries"
    )
    elsewhere = Path(torch.hub.get_dir(), "annotations", _short(str(path.absolute().parent)))
    try:
        return _stored(path.with_name(name), digest, entries)
    except OSError as error:
        log.info("the entries of %s go to %s (%s)", path, elsewhere, error)
    try:
        elsewhere.mkdir(parents=True, exist_ok=True)
        return _stored(elsewhere / name, digest, entries)
    except OSError as error:
        raise DataError(
            f"the entries of {path} can be stored neither beside it nor in {elsewhere}: {error}; "
            "TORCH_HOME may name a folder with more room"
        ) from error


def _short(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _digest(paths: Sequence[Path], maker: type, options: Mapping[str, Any]) -> tuple[bytes, int]:
    """Of all that the entries are made from, and the size of the files in bytes."""
    digest, size = hashlib.sha256(_FORMAT), 0
    digest.update(repr(([*map(str, paths)], maker.__qualname__, sorted(options.items()))).encode())
    for path in paths:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            size += status.st_size
            digest.update(repr((status.st_size, status.st_mtime_ns)).encode())
            digest.update(file.read(ENDS))
            file.seek(max(status.st_size - ENDS, 0))
            digest.update(file.read(ENDS))
    for module in dict.fromkeys(one.__module__ for one in maker.__mro__):
        source = getattr(sys.modules.get(module), "__file__", None)
        if source is not None:
            digest.update(Path(source).read_bytes())
        elif module != "builtins":  # typed into a shell: nothing shows whether it has changed
            digest.update(os.urandom(16))
    return digest.digest(), size


def _stored(target: Path, digest: bytes, entries: Entries) -> StoredEntries:
    """Those of the file `target`, written first if need be. Raises OSError."""
    waiting = False
    while (found := _usable(target, digest)) is None:
        try:
            with Lock(target.with_name(f".{target.name}.lock")):
                if _usable(target, digest) is None:
                    _write_file(target, digest, entries)
                return StoredEntries.mapped(target, digest)
        except Held as holder:
            if not waiting:
                log.info("%s is being written by %s", target, holder)
            waiting = True
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return found


def _usable(target: Path, digest: bytes) -> StoredEntries | None:
    try:
        return StoredEntries.mapped(target, digest)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.info("%s is not used: %s", target, error)
        return None


def _write_file(target: Path, digest: bytes, entries: Entries) -> None:
    """Under the lock."""
    for left in target.parent.iterdir():  # by a process that was killed
        if left.name.startswith(f".{target.name}.") and left.suffix == ".part":
            left.unlink()
    log.info("writing %s, once", target)
    begun = time.monotonic()
    with replacing(target) as temporary, temporary.open("wb") as file:
        count = write(file, entries(), digest)
    log.info("%s: %d entries in %.0f s", target, count, time.monotonic() - begun)


def write(file: BinaryIO, entries: Iterable[dict[str, Any]], digest: bytes) -> int:
    """Write entries as a stored file has them, and return their number."""
    ends, end = array("q"), 0
    for entry in entries:
        end += file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
        ends.append(end)
    file.write(np.frombuffer(ends, np.int64).astype("<i8").tobytes())
    file.write(_FOOTER.pack(len(ends), digest))
    return len(ends)

"""The samples of one webdataset shard, in the layout that img2dataset leaves, and what is wrong with it."""

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from gzip import BadGzipFile
from http.client import HTTPException, IncompleteRead
from typing import Any

from minigpt4.common.errors import BadSample
from minigpt4.common.formatting import writable
from minigpt4.datasets.datasets.shard_bytes import DecompressionBomb, open_shard
from minigpt4.datasets.datasets.tar_header import Header
from minigpt4.datasets.stream import Skipped

# Of all files of a sample together; larger samples are not read into memory.
MAX_SAMPLE_BYTES = 100 * 2**20
MAX_SAMPLE_FILES = 1000
# Of a JSON or text file: read as JSON, it takes twenty times its size.
MAX_TEXT_BYTES = 16 * 2**20
# Files that are not used are read in pieces of this size.
PIECE = 2**16

# `DIR/KEY.SUFFIX`: as for webdataset, a file's suffix begins at the first dot of its name. A file with
# nothing before the dot (macOS puts a `._NAME` beside each file) is not part of a sample.
_NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)


@dataclass
class RawSample:
    """The files `KEY.jpg`, `KEY.json`, ... of a shard, which make one sample.

    Attributes:
        key: what their names have in common.
        shard: where they are.
        files: suffix in lower case -> content.
    """

    key: str
    shard: str
    files: dict[str, bytes]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The object in the JSON file; without such a file it is empty. Raises BadSample."""
        content = self._short("json")
        try:
            fields = {} if content is None else json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadSample("broken json") from error
        if not isinstance(fields, dict):
            raise BadSample("broken json")
        return fields

    def text(self, suffix: str) -> str | None:
        """The text in the file with this suffix, if there is one. Raises BadSample."""
        content = self._short(suffix.lower())
        return None if content is None else content.decode("utf-8", errors="replace")

    def _short(self, suffix: str) -> bytes | None:
        content = self.files.get(suffix)
        if content is not None and len(content) > MAX_TEXT_BYTES:
            raise BadSample(f"{suffix} of more than {MAX_TEXT_BYTES // 2**20} MB")
        return content

    def __str__(self) -> str:
        return f"{self.shard}:{self.key}"


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """The name of a file in a shard -> its sample's key, and its suffix in lower case; None for others.

    Bytes that are not UTF-8 are written out. A `./` at the beginning does not belong to the name.
    """
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    match = _NAME.fullmatch(name)
    # webdataset keeps names that begin with `__` for itself.
    return None if match is None or name.startswith("__") else (writable(match[1]), match[2].lower())


def read_shard(shard: str) -> Iterator[RawSample | Skipped]:
    """All samples up to where the shard is damaged, then what was wrong with it."""
    reasons: list[str] = []
    sample, room = None, 0  # room: bytes that the sample may still take; -1 once it is too large
    try:
        with open_shard(shard) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=Header) as tar:
            for info in tar:
                named = key_and_suffix(info.name) if info.isreg() else None
                if named is not None:
                    key, suffix = named
                    if sample is None or key != sample.key:
                        if sample is not None:
                            yield _complete(sample, room)
                        sample, room = RawSample(key, shard, {}), MAX_SAMPLE_BYTES
                    if suffix in sample.files:
                        reasons.append("repeated file")
                    elif info.size > room or len(sample.files) == MAX_SAMPLE_FILES:
                        room = -1
                        sample.files.clear()
                    else:
                        room -= info.size
                        sample.files[suffix] = _data(tar, info)
                _skip_rest(tar)
                tar.members = []  # type: ignore[attr-defined]  # else all headers of a shard stay in memory
    except Exception as error:  # whatever tarfile, the decompressors and the network raise
        reasons.append(_shard_reason(error))
    if sample is not None and (sample.files or room < 0):  # its first file may be what was cut
        yield _complete(sample, room)
    if sample is None and not reasons:
        reasons.append("empty shard")
    yield from (Skipped(reason, shard) for reason in reasons)


def _complete(sample: RawSample, room: int) -> RawSample | Skipped:
    return sample if room >= 0 else Skipped("sample too large", str(sample))


def _data(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """The file whose header has just been read: the stream is at its first byte."""
    if info.issparse():
        return tar.extractfile(info).read()  # type: ignore[union-attr]
    data = tar.fileobj.read(info.size)  # type: ignore[union-attr]  # without extractfile's two buffers
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _skip_rest(tar: tarfile.TarFile) -> None:
    """Skip to the next header. tarfile itself would go on past the end, as far as the header says."""
    stream = tar.fileobj
    while tar.offset - 1 - stream.tell() > PIECE:  # type: ignore[attr-defined, union-attr]
        if len(stream.read(PIECE)) < PIECE:  # type: ignore[union-attr]
            raise tarfile.ReadError("unexpected end of data")


def _shard_reason(error: Exception) -> str:
    if isinstance(error, DecompressionBomb):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "missing shard"
    text = str(error)
    if text == "empty file":
        return "empty shard"
    if isinstance(error, EOFError | IncompleteRead) or "truncated" in text or "unexpected end" in text:
        return "truncated shard"
    unreadable = isinstance(error, OSError | HTTPException) and not isinstance(error, BadGzipFile)
    return "unreadable shard" if unreadable else "damaged shard"

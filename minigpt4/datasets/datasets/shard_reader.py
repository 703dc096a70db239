"""The samples of one webdataset shard, in the layout that img2dataset leaves, and what is wrong with it."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPException, IncompleteRead
from typing import IO, Any

from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys

from minigpt4.common.errors import BadSample
from minigpt4.datasets.datasets.remote import RemoteShard
from minigpt4.datasets.datasets.tar_header import Header
from minigpt4.datasets.stream import Skipped


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
        try:
            fields = json.loads(self.files.get("json", b"{}"))
        except (ValueError, RecursionError) as error:
            raise BadSample("broken json") from error
        if not isinstance(fields, dict):
            raise BadSample("broken json")
        return fields

    def text(self, suffix: str) -> str | None:
        """The text in the file with this suffix, if there is one."""
        content = self.files.get(suffix.lower())
        return None if content is None else content.decode("utf-8", errors="replace")

    def __str__(self) -> str:
        return f"{self.shard}:{self.key}"


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL or a `pipe:` command."""
    return shard.startswith("pipe:") or "://" in shard


def read_shard(shard: str) -> Iterator[RawSample | Skipped]:
    """All samples up to where the shard is damaged, then what was wrong with it."""
    reasons: list[str] = []

    def repeated(_: Exception) -> bool:
        reasons.append("repeated file")
        return True

    count = 0
    for files in group_by_keys(_members(shard, reasons), handler=repeated):
        count += 1
        key = files.pop("__key__")
        yield RawSample(key, shard, {name: data for name, data in files.items() if name != "__url__"})
    if not count and not reasons:
        reasons.append("empty shard")
    for reason in reasons:
        yield Skipped(reason, shard)


def _members(shard: str, reasons: list[str]) -> Iterator[dict[str, Any]]:
    """The files of a shard, as `group_by_keys` wants them; why it ends early is added to `reasons`."""
    try:
        with (
            _open(shard) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header) as tar,
        ):
            for info in tar:
                # webdataset keeps names that begin with `__` for itself.
                if info.isreg() and not info.name.startswith("__"):
                    yield {"fname": info.name, "data": _data(tar, info), "__url__": shard}
                tar.members = []  # type: ignore[attr-defined]  # else all headers of a shard stay in memory
    except (OSError, EOFError, HTTPException, tarfile.TarError) as error:
        reasons.append(_shard_reason(error))


def _open(shard: str) -> IO[bytes]:
    if not is_remote(shard):
        return open(shard, "rb")
    # For http, webdataset starts curl, which waits forever, and after a cut sends the file's head once more.
    return RemoteShard(shard) if shard.startswith(("http://", "https://")) else gopen(shard)  # type: ignore


def _data(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """The file whose header has just been read: the stream is at its first byte."""
    if info.issparse():
        return tar.extractfile(info).read()  # type: ignore[union-attr]
    data = tar.fileobj.read(info.size)  # type: ignore[union-attr]  # without extractfile's two buffers
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _shard_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing shard"
    text = str(error)
    if text == "empty file":
        return "empty shard"
    if isinstance(error, EOFError | IncompleteRead) or "truncated" in text or "unexpected end" in text:
        return "truncated shard"
    return "damaged shard" if isinstance(error, tarfile.TarError) else "unreadable shard"

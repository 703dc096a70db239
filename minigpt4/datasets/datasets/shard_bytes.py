"""The bytes of a shard's tar, wherever the shard is and however it is compressed."""

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from webdataset.gopen import gopen

from minigpt4.common.files import open_regular
from minigpt4.datasets.datasets.remote import RemoteShard

# How many times as much may come out of a compressed shard as went in, beside what always may.
MAX_RATIO, ALWAYS = 200, 256 * 2**20
# How a compressed file begins -> what reads it. Unlike tarfile's own, these hold little of it in memory.
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda source: gzip.GzipFile(fileobj=source),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x5d\0\0\x80": lzma.LZMAFile,
}


class DecompressionBomb(OSError):
    """Far more comes out of a compressed shard than can be in it."""


@contextmanager
def open_shard(shard: str) -> Iterator[Any]:
    """The tar in a shard: what has `read(size)`.

    Args:
        shard: a path, an http(s) URL, or a `pipe:` command, which is run. Others' files must not name it.

    Raises:
        OSError: if it cannot be opened, or is no regular file. DecompressionBomb from `read`.
    """
    with _open(shard) as stream:
        source = _Source(stream)
        for magic, unpacked in COMPRESSED.items():
            if source.head.startswith(magic):
                yield _Unpacked(source, unpacked(source))
                return
        yield source


def _open(shard: str) -> IO[bytes]:
    if shard.startswith("pipe:"):
        return gopen(shard)  # type: ignore[return-value]
    # For http, webdataset starts curl, which waits forever, and after a cut sends the file's head once more.
    return RemoteShard(shard) if shard.startswith(("http://", "https://")) else open_regular(shard)  # type: ignore[return-value]


class _Source:
    """A stream whose first bytes are known; it counts what is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self._unread = self.head = stream.read(max(map(len, COMPRESSED)))
        self.given = 0

    def read(self, size: int = -1) -> bytes:
        if self._unread:
            data = self._unread[:size] if size >= 0 else self._unread
            self._unread = self._unread[len(data) :]
        else:
            data = self.stream.read(size)
        self.given += len(data)
        return data


class _Unpacked:
    """What a compressed stream holds, for as long as it is not out of proportion."""

    def __init__(self, source: _Source, unpacked: Any) -> None:
        self.source, self.unpacked, self.given = source, unpacked, 0

    def read(self, size: int) -> bytes:
        data = self.unpacked.read(size)
        self.given += len(data)
        if self.given > ALWAYS + MAX_RATIO * self.source.given:
            raise DecompressionBomb("decompression bomb")
        return data

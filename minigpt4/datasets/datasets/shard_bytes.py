"""Opens a shard's tar: local or remote, compressed or not."""

import bz2
import gzip
import lzma
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from webdataset.gopen import gopen

from minigpt4.common.files import open_regular
from minigpt4.datasets.datasets.remote import RemoteShard

# Maximum ratio of decompressed to compressed bytes, and decompressed bytes that are always allowed.
MAX_RATIO, ALWAYS = 200, 256 * 2**20
# Magic bytes -> decompressor. Unlike tarfile's own, these need little memory.
COMPRESSED: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda source: gzip.GzipFile(fileobj=source),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x5d\0\0\x80": lzma.LZMAFile,
}


class DecompressionBomb(OSError):
    """A compressed shard decompresses to far too much."""


@contextmanager
def open_shard(shard: str) -> Iterator[Any]:
    """The tar of a shard, an object with `read(size)`.

    Args:
        shard: a path, an http(s) URL, or a `pipe:` command, which is run, so it must be trusted.

    Raises:
        OSError: if it cannot be opened, or is not a regular file. `read` raises DecompressionBomb.
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
    # For http, webdataset runs curl, which may wait forever, and after an interruption starts the file again.
    return RemoteShard(shard) if shard.startswith(("http://", "https://")) else open_regular(shard)  # type: ignore[return-value]


class _Source:
    """A stream with its first bytes, which counts the bytes read."""

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
    """A decompressed stream, up to the allowed ratio."""

    def __init__(self, source: _Source, unpacked: Any) -> None:
        self.source, self.unpacked, self.given = source, unpacked, 0

    def read(self, size: int) -> bytes:
        data = self.unpacked.read(size)
        self.given += len(data)
        if self.given > ALWAYS + MAX_RATIO * self.source.given:
            raise DecompressionBomb("decompression bomb")
        return data

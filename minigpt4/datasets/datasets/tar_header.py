"""The headers of a tar, read in a third of tarfile's time: each sample of a shard has three."""

import tarfile
from typing import IO

_CHECKSUM = slice(148, 156)
# Of a long name, a pax header or the map of a sparse file: tarfile reads all of it into memory.
MAX_HEADER = 2**20


class Header(tarfile.TarInfo):
    """As tarfile's, but plain files take a shortcut, and a damaged or endless header is an error.

    (tarfile takes a damaged one for the end of the archive.)
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:
        """The header in a block of 512 bytes (POSIX ustar); anything unusual is left to tarfile."""
        try:
            # The checksum is the sum of all bytes, with its own eight counted as spaces.
            right = sum(buf) - sum(buf[_CHECKSUM]) + 8 * ord(" ") == _octal(buf[_CHECKSUM])
            size = _octal(buf[124:136])
        except ValueError:
            right, size = False, -1
        if not right or size < 0 or len(buf) < tarfile.BLOCKSIZE or buf[156:157] != tarfile.REGTYPE:
            return super().frombuf(buf, encoding, errors)
        name, folder = (_text(field).decode(encoding, errors) for field in (buf[:100], buf[345:500]))
        header = cls(f"{folder}/{name}" if folder else name)
        header.size = size
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:  # type: ignore[override]
        damaged = (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError)  # type: ignore[attr-defined]
        try:
            return super().fromtarfile(tar)
        except damaged as error:
            raise tarfile.ReadError(str(error)) from error

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        """As tarfile's, with a limit on the bytes of the header, which may include further headers."""
        if self.type == tarfile.REGTYPE:
            return super()._proc_member(tar)  # type: ignore[misc]
        stream = tar.fileobj
        tar.fileobj = _HeaderBytes(stream)  # type: ignore[assignment]
        try:
            return super()._proc_member(tar)  # type: ignore[misc]
        finally:
            tar.fileobj = stream


class _HeaderBytes:
    """A stream that gives at most MAX_HEADER bytes."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        assert stream is not None
        self.stream, self.tell, self.left = stream, stream.tell, MAX_HEADER

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"header of more than {MAX_HEADER} bytes")
        return self.stream.read(size)


def _text(field: bytes | bytearray) -> bytes | bytearray:
    return field.partition(b"\0")[0]


def _octal(field: bytes | bytearray) -> int:
    return int(_text(field), 8)

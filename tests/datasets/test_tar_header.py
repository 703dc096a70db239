"""The quick reading of tar headers against tarfile's own."""

import io
import tarfile

import pytest

from minigpt4.datasets.datasets.tar_header import Header
from tests.support.shards import sample, sorted_out, stream, write_shard

NAMES = [
    "a.jpg",
    "folder/b.json",
    "d" * 90 + "/" + "e" * 90 + ".txt",
    "f" * 200 + ".png",
    "ü.webp",
    "empty.txt",
]
KINDS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(format: int, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 0 if name.startswith("empty") else 3 * len(name)
            tar.addfile(info, io.BytesIO(name.encode() * 3))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return buffer.getvalue()


def members(data: bytes, header: type[tarfile.TarInfo]) -> list[tuple]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|*", tarinfo=header) as tar:
        return [
            (info.name, info.type, info.size, tar.extractfile(info).read() if info.isreg() else info.linkname)
            for info in tar
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_names_types_and_bytes_are_tarfiles(kind) -> None:
    names = [name for name in NAMES if kind != "ustar" or len(name) < 200]
    data = archive(KINDS[kind], names)
    read = members(data, Header)
    assert read == members(data, tarfile.TarInfo)
    assert [name for name, *_ in read] == ["folder", *names, "link.jpg"]


def with_header(data: bytes, start: int, at: int, field: bytes, *, sum_up: bool) -> bytes:
    """Another field in the header at `start`, with its checksum made right or left wrong."""
    header = bytearray(data[start : start + tarfile.BLOCKSIZE])
    header[at : at + len(field)] = field
    if sum_up:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + tarfile.BLOCKSIZE :]


@pytest.mark.parametrize(
    ("at", "field", "sum_up"),
    [
        (0, b"B", False),  # one letter of the name: the checksum tells
        (124, b"-0000000777", True),  # a size below nothing
        (124, b"\xff" * 12, True),  # the same in base 256
        (124, b"what is it?", True),
    ],
)
def test_a_damaged_header_is_a_damaged_shard(tmp_path, at, field, sum_up) -> None:
    shard = write_shard(tmp_path / "0.tar", [*sample("a"), *sample("b"), *sample("c")])
    with open(shard, "r+b") as file:
        data = file.read()
        start = data.index(b"b.jpg")
        file.seek(0)
        file.write(with_header(data, start, at, field, sum_up=sum_up))
    samples, bad = sorted_out(stream([shard]))
    assert [item.image_id for item in samples] == ["a"]
    assert bad["damaged shard"] == 1


def test_a_header_that_is_cut_is_no_header() -> None:
    """What is missing of it is zeros, so that its checksum is right."""
    header = archive(tarfile.USTAR_FORMAT, ["empty"])[512:1024]
    assert Header.frombuf(header, "utf-8", "strict").name == "empty"
    with pytest.raises(tarfile.TruncatedHeaderError):
        Header.frombuf(header[:400], "utf-8", "strict")

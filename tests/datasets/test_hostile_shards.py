"""Shards that would take the machine are counted in bounded memory, and what is good in them is read."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from minigpt4.datasets.datasets.shard_reader import MAX_SAMPLE_FILES, key_and_suffix, read_shard
from minigpt4.datasets.stream import Skipped
from tests.support import ROOT
from tests.support.shards import sample, write_shard

MB, GB = 2**20, 2**30
# Reads shards, and says what came and by how much the memory grew at its peak.
MEASURE = """
import resource, sys
from minigpt4.datasets.datasets import shard_bytes
from minigpt4.datasets.datasets.shard_reader import read_shard
shard_bytes.ALWAYS = 2**24
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for shard in sys.argv[1:]:
    print([getattr(item, "reason", None) or item.key for item in read_shard(shard)])
print((peak() - before) // 1024)
"""


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def good(key: str) -> bytes:
    files = (header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in sample(key))
    return b"".join(files)


def write_around(file: IO[bytes], size: int, hole: Callable[[int], object]) -> None:
    """Sample a, a sample b of `size` zeros, sample c."""
    file.write(good("a") + header("b.jpg", size))
    hole(size)
    file.write(good("c") + bytes(1024))


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        write_around(file, GB, lambda size: file.seek(size, os.SEEK_CUR))


def sparse_member(path: Path) -> None:
    """GNU's old format: the header says where data lies in the file, and how large the file is."""
    block = bytearray(header("b.jpg", 0, tarfile.GNUTYPE_SPARSE))
    block[386:410] = b"%011o\0%011o\0" % (4 * GB, 0)
    block[483:495] = b"%011o\0" % (4 * GB)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    path.write_bytes(good("a") + block + good("c") + bytes(1024))


def compressed(path: Path, opened: Callable[[Path], IO[bytes]]) -> None:
    with opened(path) as file:
        write_around(file, 150 * MB, lambda size: [file.write(bytes(MB)) for _ in range(size // MB)])


@pytest.mark.skipif(sys.platform == "win32", reason="no measure of memory")
def test_what_is_too_large_is_counted_in_little_memory(tmp_path: Path) -> None:
    sparse_file(tmp_path / "file.tar")
    sparse_member(tmp_path / "member.tar")
    compressed(tmp_path / "0.tgz", lambda path: gzip.GzipFile(path, "wb", 1))
    compressed(tmp_path / "0.tar.bz2", lambda path: bz2.BZ2File(path, "wb"))
    compressed(tmp_path / "0.tar.xz", lambda path: lzma.LZMAFile(path, "wb", preset=0))  # noqa: SIM115
    shards = [tmp_path / name for name in ("file.tar", "member.tar", "0.tgz", "0.tar.bz2", "0.tar.xz")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *shards], cwd=ROOT, capture_output=True, text=True)
    *said, grown = done.stdout.splitlines()
    assert (
        said
        == [str(["a", "sample too large", "c"])] * 2
        + [str(["a", "sample too large", "decompression bomb"])] * 3
    )
    assert int(grown) < 80, "MB"


ENDLESS = {
    "size beyond all": (
        good("a") + header("b.jpg", 2**62) + bytes(9999),
        ["a", "sample too large", "truncated shard"],
    ),
    "kind that is not known": (
        good("a") + header("b.jpg", 2**62, b"Z") + bytes(9999),
        ["a", "truncated shard"],
    ),
    "long name": (good("a") + header("b", 4 * GB, tarfile.GNUTYPE_LONGNAME), ["a", "damaged shard"]),
    "pax header": (good("a") + header("b", 4 * GB, tarfile.XHDTYPE), ["a", "damaged shard"]),
    "headers for headers": (
        good("a") + header("b", 0, tarfile.XHDTYPE) * 3000 + good("c"),
        ["a", "damaged shard"],
    ),
}


@pytest.mark.unit
@pytest.mark.parametrize(("data", "found"), ENDLESS.values(), ids=ENDLESS)
def test_endless_headers_end_a_shard(tmp_path: Path, data: bytes, found: list[str]) -> None:
    (tmp_path / "0.tar").write_bytes(data)
    assert reasons_or_keys(tmp_path / "0.tar") == found


@pytest.mark.unit
def test_a_sample_of_too_many_files_is_skipped(tmp_path: Path) -> None:
    many = [(f"b.{number}", b"") for number in range(MAX_SAMPLE_FILES + 1)]
    shard = write_shard(tmp_path / "0.tar", [*sample("a"), *many, *sample("c")])
    assert reasons_or_keys(Path(shard)) == ["a", "sample too large", "c"]


@pytest.mark.unit
@pytest.mark.parametrize("opened", [gzip.open, bz2.open, lzma.open])
def test_compressed_shards_are_read_as_they_were(tmp_path: Path, opened) -> None:
    plain = write_shard(tmp_path / "0.tar", [*sample("a"), *sample("b")])
    with opened(tmp_path / "1.tar", "wb") as file:
        file.write(Path(plain).read_bytes())
    first, second = ([item.files for item in read_shard(str(tmp_path / name))] for name in ("0.tar", "1.tar"))
    assert first == second and len(first) == 2
    cut = tmp_path / "1.tar"
    cut.write_bytes(cut.read_bytes()[:-100])
    assert reasons_or_keys(cut)[-1] in ("truncated shard", "damaged shard")


@pytest.mark.unit
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_among_shards_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.tar")
    assert reasons_or_keys(tmp_path / "0.tar") == ["unreadable shard"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("name", "found"),
    {
        "000.jpg": ("000", "jpg"),
        "./000.JPG": ("000", "jpg"),
        ".//./x/000.jpg": ("x/000", "jpg"),
        "v1.0/000.jpg": ("v1.0/000", "jpg"),
        "./v1.0/a b.seg.png": ("v1.0/a b", "seg.png"),
        "caf\udce9.jpg": ("caf\\udce9", "jpg"),
        "._000.jpg": None,
        "v1.0/._000.jpg": None,
        "v1.0/000": None,
        "__key__.jpg": None,
        "a\nb.jpg": ("a\nb", "jpg"),
    }.items(),
)
def test_names_are_a_key_and_a_suffix(name: str, found: tuple[str, str] | None) -> None:
    assert key_and_suffix(name) == found


@pytest.mark.unit
def test_names_that_are_not_utf8_tell_samples_apart(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("caf\udce9.jpg", "caf\udce8.jpg"):
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "0.tar").write_bytes(buffer.getvalue())
    assert reasons_or_keys(tmp_path / "0.tar") == ["caf\\udce9", "caf\\udce8"]


def reasons_or_keys(shard: Path) -> list[str]:
    return [item.reason if isinstance(item, Skipped) else item.key for item in read_shard(str(shard))]

"""Convert BLIP's published lists of captions to a table that img2dataset reads.

The lists are one JSON array of `{"url": ..., "caption": ..., ...}`; the table has the columns `url` and
`caption`. Takes less than 200 MB of memory, whatever the size. Stopped, it leaves OUT as it was.

example:
  minigpt4 convert-captions ccs_synthetic_filtered_large.json ccs_synthetic_filtered_large.tsv
  minigpt4 convert-captions laion_synthetic_filtered_large.json laion_synthetic_filtered_large.parquet
"""

import argparse
import codecs
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import ijson
from ijson.common import JSONError
from tqdm import tqdm

from minigpt4.common import cli
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.files import replacing

COLUMNS = ("url", "caption")
PARQUET_ROWS = 10_000  # per row group, which is what is held in memory
CHUNK = 1 << 18

Row = tuple[str, str]

_URL = re.compile(r"https?://[^\s\ufffd]+", re.IGNORECASE)
# What would end a field or a line for img2dataset or the readers of its captions, and lone surrogates, which
# UTF-8 cannot hold.
_ODD = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]+")


# ijson's C parser crashes or hangs on integers that are too long for Python, and on deeply nested lists. Each
# match is half as long as that, because a chunk may end in the middle.
_HOSTILE = re.compile(r"[0-9]{2000}|(?:[\[{]\s*){2000}")


class OddEntry(Exception):
    """Raised with the reason an entry is left out."""


@dataclass
class Counts:
    """What became of the entries.

    Attributes:
        rows: entries that were written.
        left_out: entries that were not, by reason.
        mended: captions that were changed, by reason.
    """

    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.rows:,} rows"]
        parts += [f"left out: {number:,} with {reason}" for reason, number in self.left_out.most_common()]
        parts += [f"mended: {number:,} with {reason}" for reason, number in self.mended.most_common()]
        return "; ".join(parts)


def main() -> None:
    """The command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("source", type=cli.user_path, metavar="IN.json", help="the published list")
    parser.add_argument("target", type=cli.user_path, metavar="OUT", help="a .tsv or .parquet file")
    cli.run(_command, parser.parse_args())


def _command(args: argparse.Namespace) -> None:
    started = time.perf_counter()
    counts = convert(args.source, args.target)
    seconds = time.perf_counter() - started
    print(f"{args.target}: {counts}; {seconds:.1f} s, {counts.rows / seconds:,.0f} rows per second")


def convert(source: Path, target: Path) -> Counts:
    """Write the table; the target is complete or, if anything goes wrong, as it was before.

    Args:
        source: a JSON array of objects with `url` and `caption`.
        target: its suffix, `.tsv` or `.parquet`, decides the format.

    Raises:
        ConfigError: for another suffix, or parquet without pyarrow.
        DataError: if the source is missing, not a JSON array, breaks off, or has no usable entry; or if the
            target cannot be written.
    """
    write = _writer_for(target)
    if not source.is_file():
        raise DataError(f"file not found: {source}")
    counts = Counts()
    try:
        with source.open("rb") as file, _progress(source) as bar, replacing(target) as part:
            write(_rows(_entries(file, source, bar), counts), part)
            if not counts.rows:
                raise DataError(f"{source} has no entry with a url and a caption ({counts})")
    except OSError as error:
        raise DataError(f"could not convert {source} to {target}: {error}") from error
    return counts


def _progress(source: Path) -> tqdm:
    """A bar of bytes, where the output is a terminal."""
    return tqdm(desc=source.name, total=source.stat().st_size, unit="B", unit_scale=True, disable=None)


class _Utf8:
    """A file for a parser of strict UTF-8: invalid bytes become U+FFFD, and a byte order mark is dropped."""

    def __init__(self, file: BinaryIO, bar: tqdm) -> None:
        self.file, self.bar = file, bar
        self.position = 0
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")(errors="replace")

    def read(self, size: int = CHUNK) -> bytes:
        while size:
            data = self.file.read(size)
            self.position += len(data)
            self.bar.update(len(data))
            text = self.decoder.decode(data, final=not data)
            if hostile := _HOSTILE.search(text):
                raise JSONError(f"{hostile[0][:10]}... does not end")
            if text or not data:  # half a character alone is not yet the end
                return text.encode()
        return b""


def _entries(file: BinaryIO, source: Path, bar: tqdm) -> Iterator[Any]:
    """The entries of the array, one after the other. Raises DataError if it is not an array or breaks off."""
    head = file.read(CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()
    if not head.startswith(b"["):
        raise DataError(f"{source} is not a JSON array: it begins with {head[:20]!r}")
    file.seek(0)
    stream, number = _Utf8(file, bar), 0
    try:
        for entry in ijson.items(stream, "item", buf_size=CHUNK):
            yield entry
            number += 1
    except (JSONError, ArithmeticError, ValueError) as error:  # ijson does not wrap all of Python's own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source} breaks off or is damaged after {number:,} entries, before byte {stream.position:,} of "
            f"{source.stat().st_size:,} ({reason}); nothing was written: please download it again"
        ) from error


def _rows(entries: Iterable[Any], counts: Counts) -> Iterator[Row]:
    for entry in entries:
        try:
            row = _row(entry, counts.mended)
        except OddEntry as odd:
            counts.left_out[str(odd)] += 1
            continue
        counts.rows += 1
        yield row


def _row(entry: Any, mended: Counter[str]) -> Row:
    """The URL and the caption of an entry. Raises OddEntry."""
    if not isinstance(entry, dict):
        raise OddEntry("no keys")
    url, caption = (entry.get(column) for column in COLUMNS)
    if not isinstance(url, str) or not url.strip():
        raise OddEntry("no url")
    if not _URL.fullmatch(url := url.strip()):
        raise OddEntry("an unusable url")
    if not isinstance(caption, str):
        raise OddEntry("no caption")
    # Most captions are printable, which is quicker to see.
    plain = caption.strip() if caption.isprintable() else _ODD.sub(" ", caption).strip()
    if not plain:
        raise OddEntry("no caption")
    if plain != caption.strip():
        mended["control characters"] += 1
    if "\ufffd" in plain:
        mended["bytes that are not UTF-8"] += 1
    return url, plain


def _writer_for(target: Path) -> Callable[[Iterable[Row], Path], None]:
    if target.suffix == ".tsv":
        return _write_tsv
    if target.suffix != ".parquet":
        raise ConfigError(f"{target} must end in .tsv or .parquet")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{target}: parquet needs pyarrow: pip install pyarrow, or write a .tsv") from error
    return _write_parquet


def _write_tsv(rows: Iterable[Row], part: Path) -> None:
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(COLUMNS) + "\n")
        file.writelines(f"{_quoted(url)}\t{_quoted(caption)}\n" for url, caption in rows)
        file.flush()
        os.fsync(file.fileno())


def _quoted(text: str) -> str:
    """A field as img2dataset's reader of TSV wants it: as in CSV. There is no tab and no newline in it."""
    return '"' + text.replace('"', '""') + '"' if '"' in text else text


def _write_parquet(rows: Iterable[Row], part: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = iter(rows)
    schema = pyarrow.schema([(column, pyarrow.string()) for column in COLUMNS])
    with part.open("wb") as file:
        # No dictionary: URLs do not repeat.
        with pyarrow.parquet.ParquetWriter(file, schema, use_dictionary=False) as writer:
            while batch := list(islice(rows, PARQUET_ROWS)):
                columns = [list(column) for column in zip(*batch, strict=True)]
                writer.write_table(pyarrow.table(columns, schema=schema))
        file.flush()
        os.fsync(file.fileno())

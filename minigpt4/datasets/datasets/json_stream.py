"""Annotations in JSON, read entry by entry: a file of gigabytes takes no more memory than its largest entry.

Not by ijson: it keeps the path to each value, so 100,000 brackets in a row fill the memory. The parser of the
standard library refuses them, and is faster.
"""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from minigpt4.common.errors import DataError
from minigpt4.common.files import nearest_path, open_regular

LISTS = ("annotations", "data")  # what published mappings call their list of entries
CHUNK = 2**20  # characters read at once
LARGEST = 64 * 2**20  # characters of one entry
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def stream_list(path: str | Path, *keys: str) -> Iterator[Any]:
    """The entries of a list: the file itself, or what a mapping has under one of some keys.

    Args:
        path: of the file.
        keys: `annotations` and `data` if there are none.

    Raises:
        DataError: if the file does not exist, is not JSON, or holds no such list.
    """
    keys = keys or LISTS
    with _reading(path) as text:
        if text.next() == "[":
            yield from text.elements()
            text.end()
            return
        for key in text.members() if text.next() == "{" else ():
            if key in keys and text.next() == "[":
                yield from text.elements()
                return
            text.pass_over()
        either = " or ".join(map(repr, keys))
        raise DataError(f"{path} must hold a list of entries, or a mapping with one under {either}")


def stream_mapping(path: str | Path) -> Iterator[tuple[str, Any]]:
    """The keys and values of the mapping that a file is. Raises DataError, as `stream_list`."""
    with _reading(path) as text:
        if text.next() != "{":
            raise DataError(f"{path} must hold a mapping")
        for key in text.members():
            yield key, text.value()
        text.end()


@contextmanager
def _reading(path: str | Path) -> Iterator["_Text"]:
    try:
        # With or without a byte-order mark.
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            yield _Text(file)
    except FileNotFoundError as error:
        raise DataError(f"the annotation file {path} does not exist{nearest_path(path)}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error


class _Text:
    """A JSON text, of which a window is in memory."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._window, self._at = "", 0
        self._before = 0  # characters that have left the window

    def next(self) -> str:
        """The next character that is not white space; it is not taken. Empty at the end."""
        while True:
            self._at = _SPACE.match(self._window, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._read_on():
                return ""

    def value(self) -> Any:
        """Take a value."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                # A number at the edge may go on: "1", "1.5", "1e+5".
                if len(self._window) - end < len("e+5") and self._read_on():
                    continue
            except json.JSONDecodeError as error:
                if self._read_on():
                    continue
                raise self._wrong(error.msg, error.pos) from error
            self._at = end
            return value

    def elements(self) -> Iterator[Any]:
        """Take a list, value by value."""
        yield from (self.value() for _ in self._items("[", "]"))

    def members(self) -> Iterator[str]:
        """Take a mapping, key by key; the caller takes each value."""
        for _ in self._items("{", "}"):
            if self.next() != '"':
                raise self._wrong("a key must be text", self._at)
            key = self.value()
            self._take(":")
            yield key

    def pass_over(self) -> None:
        """Take a value of any size."""
        if self.next() != "[":
            self.value()
            return
        for _ in self.elements():
            pass

    def end(self) -> None:
        """Raise ValueError if anything follows."""
        if self.next():
            raise self._wrong("extra data", self._at)

    def _items(self, opening: str, closing: str) -> Iterator[None]:
        """Once per item that the caller takes."""
        self._take(opening)
        if self.next() == closing:
            self._take(closing)
            return
        while True:
            yield
            if self._take("," + closing) == closing:
                return

    def _take(self, wanted: str) -> str:
        found = self.next()
        if not found or found not in wanted:
            raise self._wrong(f"{' or '.join(map(repr, wanted))} is missing", self._at)
        self._at += 1
        return found

    def _read_on(self) -> bool:
        """Whether there was more: at least as much as is left, so that a long value is not tried often."""
        left = self._window[self._at :]
        if len(left) > LARGEST:
            raise self._wrong(f"an entry of more than {LARGEST:,} characters", self._at)
        more = self._file.read(max(CHUNK, len(left)))
        if more:
            self._before += self._at
            self._window, self._at = left + more, 0
        return bool(more)

    def _wrong(self, message: str, place: int) -> ValueError:
        return ValueError(f"{message}, at character {self._before + place + 1}")

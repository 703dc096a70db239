"""Shards over HTTP, read while they arrive."""

import time
from http.client import HTTPResponse
from typing import Any

from minigpt4.common.web import open_url

# Seconds before each further attempt, where the server may only be busy.
WAITS = (1.0, 3.0)
LARGEST_SHARD = 2**36  # bytes; more counts as endless


class RemoteShard:
    """A shard at an http(s) URL. Only opening it is retried; a connection that breaks later is an error.

    Reading raises an OSError if the server stops, is far too slow or does not end.

    Raises:
        FileNotFoundError: if the server says that the file does not exist.
        OSError: if it cannot be reached, refuses, or stays busy.
    """

    def __init__(self, url: str) -> None:
        self.answer = _answer(url)
        self.left = LARGEST_SHARD

    def read(self, size: int) -> bytes:
        data = self.answer.read(size)
        self.left -= len(data)
        if self.left < 0:
            raise OSError(f"longer than {LARGEST_SHARD:,} bytes")
        return data

    def __enter__(self) -> "RemoteShard":
        return self

    def __exit__(self, *_: Any) -> None:
        self.answer.close()


def _answer(url: str) -> HTTPResponse:
    for wait in (*WAITS, None):
        try:
            return open_url(url)
        except OSError as error:
            code = getattr(error, "code", None)
            if code in (404, 410):
                raise FileNotFoundError(url) from error
            busy = code is None or code >= 500 or code in (408, 429)
            if wait is None or not busy:
                raise
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")

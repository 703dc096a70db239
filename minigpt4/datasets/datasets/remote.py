"""Shards over HTTP, read while they arrive."""

import time
import urllib.error
import urllib.request
from http.client import HTTPResponse

# Seconds without a byte after which a server is given up: a reader that waits forever stops all training.
# Only time spent waiting to receive counts, not what the loop does in between.
TIMEOUT = 30.0
# Seconds before each further attempt, where the server may only be busy.
WAITS = (1.0, 3.0)


def open_url(url: str) -> HTTPResponse:
    """Open an http(s) URL for reading. Nothing is requested again once content has arrived.

    Raises:
        FileNotFoundError: if the server says that there is no such file.
        OSError: if it cannot be reached, refuses, or stays busy.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "minigpt4"})
    for wait in (*WAITS, None):
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)
        except OSError as error:
            code = getattr(error, "code", None)
            if code in (404, 410):
                raise FileNotFoundError(url) from error
            busy = code is None or code >= 500 or code in (408, 429)
            if wait is None or not busy:
                raise
        time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")

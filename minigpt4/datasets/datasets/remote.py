"""Shards over http, read as they come."""

import time
import urllib.error
import urllib.request
from http.client import HTTPResponse

# Seconds without one byte after which a server is given up: a reader that waits for ever stops all training.
# What the loop does meanwhile does not count, only waiting to receive.
TIMEOUT = 30.0
# Seconds before another try, where the server may only be busy.
WAITS = (1.0, 3.0)


def open_url(url: str) -> HTTPResponse:
    """Open a http(s) URL for reading. Nothing is asked for twice once content came.

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
    raise AssertionError("the last try returns or raises")

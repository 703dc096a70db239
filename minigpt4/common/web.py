"""Opening addresses of the web, none of whose servers is waited for without end."""

import io
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, Any

# Seconds without a byte after which a server is given up.
TIMEOUT = 30.0
# So many bytes must arrive in so many seconds of waiting, or it is given up too: 1 kB a second. What the
# reader does between two reads is not waiting.
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000


def open_url(url: str, headers: Mapping[str, str] | None = None) -> HTTPResponse:
    """Open an http(s) address for reading, through redirects to other such addresses.

    Raises:
        urllib.error.HTTPError: an OSError, with the status that the server answers.
        OSError: for all else that comes of it: a malformed address or answer, a server that is not there. So
            do reads of what is returned (or an HTTPException, where the connection is cut).
    """
    opener = urllib.request.OpenerDirector()
    for handler in (_Http, _Https, _Redirects, *_PLAIN):
        opener.add_handler(handler())
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "minigpt4"} | dict(headers or {}))
        return opener.open(request, timeout=TIMEOUT)  # pyright: ignore[reportReturnType]
    except (ValueError, HTTPException) as error:
        raise urllib.error.URLError(f"{type(error).__name__}: {error}") from error


class _Watched(io.RawIOBase):
    """A socket's bytes; TimeoutError is raised where they come too slowly."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.waited, self.arrived = 0.0, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        begun = time.monotonic()
        count = self.raw.readinto(buffer)
        self.waited += time.monotonic() - begun
        self.arrived += count
        if self.waited >= SLOW_SECONDS:
            if count and self.arrived < SLOW_BYTES:
                raise TimeoutError(f"only {self.arrived:,} bytes came in {self.waited:.0f} s")
            self.waited, self.arrived = 0.0, 0
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Answer(HTTPResponse):
    fp: IO[bytes]

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Watched(self.fp.detach()))  # type: ignore[attr-defined]  # headers too


class _Connection(HTTPConnection):
    response_class = _Answer


class _SecureConnection(HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, *args: Any) -> urllib.request.Request | None:
        fp.close()  # else its content, which may have no end, would be read first
        return super().redirect_request(req, fp, *args)


# Not those that open files and ftp.
_PLAIN = (
    urllib.request.ProxyHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)

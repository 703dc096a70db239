"""HTTP requests that never hang."""

import io
import ipaddress
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, Any

# Seconds without data after which a connection is aborted.
TIMEOUT = 30.0
# At least this many bytes must arrive in this many seconds of waiting (1 kB/s). Time between two reads does
# not count.
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000


def open_url(url: str, headers: Mapping[str, str] | None = None, *, public: bool = False) -> HTTPResponse:
    """Open an http(s) URL for reading, following redirects to other http(s) URLs.

    Args:
        url: the URL.
        headers: of the request.
        public: only connect to public addresses, for URLs from untrusted clients (SSRF). It also holds for
            redirects, and for what the name resolves to when we connect. Proxies are not used.

    Raises:
        urllib.error.HTTPError: an OSError, with the status of the response.
        OSError: for all other failures, such as a malformed URL or response. Reading the response raises it
            too (or an HTTPException, if the connection is cut).
    """
    opener = urllib.request.OpenerDirector()
    kinds = (_PublicHttp, _PublicHttps) if public else (_Http, _Https, urllib.request.ProxyHandler)
    for handler in (*kinds, _Redirects, *_PLAIN):
        opener.add_handler(handler())
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "minigpt4"} | dict(headers or {}))
        return opener.open(request, timeout=TIMEOUT)  # pyright: ignore[reportReturnType]
    except (ValueError, HTTPException) as error:
        raise urllib.error.URLError(f"{type(error).__name__}: {error}") from error


class _Watched(io.RawIOBase):
    """A socket's data; raises TimeoutError if it arrives too slowly."""

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


class _PublicConnection(_Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_in_public


class _PublicSecureConnection(_SecureConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_in_public


def _connect_in_public(address: tuple[str, int], *args: Any) -> socket.socket:
    """As `socket.create_connection`, to the address that was checked. Raises OSError."""
    host, port = address
    found = [one[4][0] for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(str(one)) for one in found):
        raise OSError(f"{host} is not a public address")
    return socket.create_connection((str(found[0]), port), *args)


def is_public(address: str) -> bool:
    """Whether an IP address is public, and does not embed one that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = None
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast and (inner is None or is_public(str(inner)))


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureConnection, req)


class _PublicHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_PublicConnection, req)


class _PublicHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_PublicSecureConnection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, *args: Any) -> urllib.request.Request | None:
        fp.close()  # otherwise its content, which may be endless, would be read first
        return super().redirect_request(req, fp, *args)


# Without the handlers of file: and ftp:.
_PLAIN = (
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)

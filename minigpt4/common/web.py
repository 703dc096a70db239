"""Opening addresses of the web, none of whose servers is waited for without end."""

import io
import ipaddress
import socket
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


def open_url(url: str, headers: Mapping[str, str] | None = None, *, public: bool = False) -> HTTPResponse:
    """Open an http(s) address for reading, through redirects to other such addresses.

    Args:
        url: the address.
        headers: of the request.
        public: only of hosts that anyone reaches: a stranger named the address, and must not learn through us
            what this machine and its network say. It holds for redirects, and for what the host's name means
            when we connect. Proxies are not used.

    Raises:
        urllib.error.HTTPError: an OSError, with the status that the server answers.
        OSError: for all else that comes of it: a malformed address or answer, a server that is not there. So
            do reads of what is returned (or an HTTPException, where the connection is cut).
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


class _PublicConnection(_Connection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_in_public


class _PublicSecureConnection(_SecureConnection):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = _connect_in_public


def _connect_in_public(address: tuple[str, int], *args: Any) -> socket.socket:
    """As `socket.create_connection`, to the very address that was looked at. Raises OSError."""
    host, port = address
    found = [one[4][0] for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(is_public(str(one)) for one in found):
        raise OSError(f"{host} is not a public address")
    return socket.create_connection((str(found[0]), port), *args)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, and does not wrap another that is not."""
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
        fp.close()  # else its content, which may have no end, would be read first
        return super().redirect_request(req, fp, *args)


# Not those that open files and ftp.
_PLAIN = (
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPErrorProcessor,
    urllib.request.UnknownHandler,
)

"""Servers that do what they should not are given up, and nothing but the web is opened."""

import time
from collections.abc import Callable, Iterable
from itertools import repeat
from urllib.error import URLError

import pytest

from minigpt4.common import web
from minigpt4.common.web import open_url
from tests.support.raw_server import sending

pytestmark = pytest.mark.integration

OK = b"HTTP/1.1 200 OK\r\n"


def drip(head: bytes) -> Iterable[bytes]:
    return (head, *repeat(b"x", 500))


def always(*pieces: bytes) -> Callable[[bytes], Iterable[bytes]]:
    return lambda _: pieces


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(OK + b"\r\n", id="content"),
        pytest.param(OK + b"Content-Length: 1000\r\n\r\n", id="announced"),
        pytest.param(OK + b"Header: ", id="headers"),
        pytest.param(b"HTTP", id="status"),
    ],
)
def test_a_server_that_drips_is_given_up(head: bytes, monkeypatch) -> None:
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.3)
    with (
        sending(always(*drip(head)), 0.02) as url,
        pytest.raises(OSError, match=r"only \d+ bytes came in 0 s"),
    ):
        open_url(url).read()


def test_time_between_reads_is_not_the_servers(monkeypatch) -> None:
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.1)
    with sending(always(OK + b"Content-Length: 9\r\n\r\n", b"abc", b"def", b"ghi"), 0.01) as url:
        answer = open_url(url)
        time.sleep(0.2)
        assert answer.read(4) == b"abcd"
        time.sleep(0.2)
        assert answer.read() == b"efghi"


@pytest.mark.parametrize(
    "where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "pipe:ls", "data:,x", "http://[x/"]
)
def test_a_redirect_leads_to_the_web_alone(where: str) -> None:
    found = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\n\r\n".encode()
    with sending(always(found)) as url, pytest.raises(URLError):
        open_url(url)


def test_a_redirect_without_end_is_not_read() -> None:
    with sending(always(OK + b"\r\n", b"found")) as there:
        head = f"HTTP/1.1 302 Found\r\nLocation: {there}\r\n\r\n".encode()
        with sending(always(head, *repeat(b"x" * 60_000, 10_000))) as url:
            assert open_url(url).read() == b"found"


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://a b/",
        "http://127.0.0.1:x/",
        "http:///x",
        "file:///etc/passwd",
        "x",
        "http://é\n/",
    ],
)
def test_a_malformed_address(url: str) -> None:
    with pytest.raises(URLError):
        open_url(url)


@pytest.mark.parametrize(
    "answer", [b"nonsense\r\n\r\n", b"", b"HTTP/1.1 999999 x\r\n\r\n", OK + b"a: b\r\n" * 999]
)
def test_a_malformed_answer(answer: bytes) -> None:
    with sending(always(answer)) as url, pytest.raises((URLError, ConnectionError)):
        open_url(url)

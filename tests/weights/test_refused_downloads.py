"""Downloads that fail, with what their message says and what stays on disk."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from minigpt4.common import web
from minigpt4.weights import download
from minigpt4.weights.resolver import resolve_file
from tests.support.downloads import DATA, SHA256, leftovers, raises, ranges, refused
from tests.support.hub_server import FileServer
from tests.support.raw_server import sending

pytestmark = pytest.mark.usefixtures("checkpoints")


@pytest.mark.parametrize("cuts", [[], [1_000_000]])
@pytest.mark.parametrize(
    ("name", "fragment", "wanted"),
    [("a.pth", f"#sha256={'0' * 64}", "0" * 64), ("a-deadbeef.pth", "", "deadbeef")],
)
def test_a_hash_that_is_wrong(server, checkpoints, name, fragment, wanted, cuts) -> None:
    url, _ = server.serve(f"/{name}", DATA, cuts=iter(cuts))
    for _ in range(2):
        message = refused(url + fragment)
        assert f"the SHA-256 of {url} is {SHA256}, not {wanted}: the download was deleted" in message
        assert leftovers(checkpoints) == []
    assert len(server.seen) == len(cuts) + 2


@pytest.mark.parametrize("there", [0, 1_000_000])
def test_no_space_is_said_before_a_byte_is_written(server, checkpoints, monkeypatch, there) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=chain([there], repeat(0)))
    refused(url)
    server.serve("/a.pth", DATA)
    usage = shutil.disk_usage("/")._replace(free=len(DATA) - there - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    message = refused(url)
    folder = next(checkpoints.rglob("a.pth.part")).parent
    assert f"no space for {url}: {len(DATA) - there:,} bytes needed in {folder}" in message
    assert message.endswith(f"{len(DATA) - there - 1:,} are free")
    assert next(folder.glob("*.part")).stat().st_size == there


def test_no_space_while_it_is_written(server, checkpoints, monkeypatch) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=iter([1_000_000]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", raises(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
        message = refused(url)
    assert f"no space for {url}: 2,000,000 bytes needed in {checkpoints}" in message
    assert re.search(r"[\d,]+ are free$", message)
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server) == [(None, 1_000_000), ("bytes=1000000-", 2_000_000)]


def test_a_cache_that_cannot_be_written(server, checkpoints) -> None:
    checkpoints.parent.mkdir(parents=True)
    checkpoints.touch()
    url, _ = server.serve("/a.pth", DATA)
    assert f"could not keep {url} in {checkpoints}" in refused(url)
    assert server.seen == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_answer_that_is_final(server, checkpoints, status) -> None:
    server.files["/a.pth"] = status
    message = refused(f"{server.url}/a.pth?signature=secret")
    assert f"could not download {server.url}/a.pth?… (the server answers {status} " in message
    assert "secret" not in message
    assert len(server.seen) == 1
    assert leftovers(checkpoints) == []


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_that_may_change(server, status) -> None:
    server.files["/a.pth"] = status
    assert f"could not download {server.url}/a.pth (the server answers {status} " in refused(
        f"{server.url}/a.pth"
    )
    assert len(server.seen) == 4
    url, _ = server.serve("/a.pth", DATA)
    assert resolve_file(url, "k").read_bytes() == DATA


def test_a_server_that_is_not_there(server) -> None:
    with FileServer() as gone:
        url = f"{gone.url}/a.pth"
    assert re.search(r"could not download .* \(.*[Rr]efused.*\); a local path works too$", refused(url))


@pytest.fixture
def no_waiting(monkeypatch) -> None:
    """Another attempt would be an error."""
    monkeypatch.setattr(download.time, "sleep", lambda _: pytest.fail("it is tried again"))


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("127.0.0.1:1", "refused"),
        ("nowhere.invalid", "could not download"),
        ("a..b", "could not download"),
        ("a b", "could not download"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(no_waiting, host, message) -> None:
    assert message in refused(f"http://{host}/a.pth")


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "//[", "/a.pth"])
def test_a_redirect_that_leads_nowhere(server, checkpoints, no_waiting, place) -> None:
    server.files["/a.pth"] = place
    assert f"could not download {server.url}/a.pth" in refused(f"{server.url}/a.pth")
    assert leftovers(checkpoints) == []


@pytest.mark.parametrize("line", [b"H" + b"x" * 50_000, b"HTTP/1.1 404 " + b"x" * 50_000])
def test_what_a_server_says_is_shortened(checkpoints, monkeypatch, line) -> None:
    monkeypatch.setattr(download, "WAITS", (0.0,))
    with sending(lambda _: [line + b"\r\n\r\n"]) as url:
        message = refused(url)
    assert "xxx" in message and len(message) < 600


def test_a_file_without_end(server, checkpoints, monkeypatch, no_waiting) -> None:
    monkeypatch.setattr(download, "LARGEST_UNANNOUNCED", 1_500_000)
    url, served = server.serve("/a.pth", DATA, sized=False)
    assert "sends more than 1,500,000 bytes" in refused(url)
    assert leftovers(checkpoints) == []
    served.data = DATA[:1_500_000]
    assert resolve_file(url, "k").read_bytes() == DATA[:1_500_000]


def test_a_length_that_no_disk_has(server, checkpoints, no_waiting) -> None:
    url, _ = server.serve("/a.pth", b"x", sized=False, headers={"Content-Length": "1" + 15 * "0"})
    assert "no space for" in refused(url)
    assert leftovers(checkpoints) in ([], ["a.pth.part", "a.pth.part.json"])


def test_a_web_page_is_no_file(server, checkpoints) -> None:
    headers = {"Content-Type": "text/html; charset=utf-8"}
    url, _ = server.serve("/file/d/1/view", b"<html>", headers=headers)
    assert f"{url} is a web page, not a file: give the address of the download itself" in refused(url)
    assert leftovers(checkpoints) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("https://me:secret@host/a.pth", "a URL needs a host, without a user name or password"),
        ("https:///a.pth", "a URL needs a host"),
        ("http://[::1/a.pth", "malformed"),
        ("http://host:99999/a.pth?key=secret", "malformed"),
        ("http://host:port/a.pth", "malformed"),
        ("https://host/a.pth#sha=1", "the part after # is 'sha=1', it must be sha256=<64 hex digits>"),
        (
            "https://host/a.pth#sha256=12",
            "the part after # is 'sha256=12', it must be sha256=<64 hex digits>",
        ),
    ],
)
def test_an_address_that_is_none(value, message) -> None:
    assert message in refused(value)
    assert "secret" not in refused(value)


def test_a_server_that_drips_is_given_up(checkpoints, monkeypatch) -> None:
    """Each attempt goes a bit further, as ranges allow."""
    monkeypatch.setattr(web, "SLOW_SECONDS", 0.1)

    def drip(request: bytes) -> Iterator[bytes]:
        asked = re.search(rb"Range: bytes=(\d+)-", request)
        start = int(asked[1]) if asked else 0
        span = f"Content-Range: bytes {start}-99999/100000\r\n" if asked else ""
        status = "206 Partial Content" if asked else "200 OK"
        yield f'HTTP/1.1 {status}\r\nETag: "1"\r\n{span}Content-Length: {100_000 - start}\r\n\r\n'.encode()
        yield from repeat(b"x", 500)

    with sending(drip, 0.01) as url:
        message = refused(url)
    assert re.search(r"stopped after \d+ of 100,000 bytes \(only \d+ bytes came in 0 s\)", message)

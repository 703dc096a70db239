"""Weights at URLs, from a server that does all that servers do."""

import errno
import hashlib
import os
import random
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import pytest

from minigpt4.common import web
from minigpt4.common.errors import ConfigError
from minigpt4.weights import download
from minigpt4.weights.locations import BLIP2_URL, EVA_CLIP_G_URL
from minigpt4.weights.resolver import WeightSource, locate, resolve_file
from tests.support.hub_server import FileServer
from tests.support.raw_server import sending

DATA = random.Random(0).randbytes(3_000_000)
OTHER = random.Random(1).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def checkpoints(tmp_path, monkeypatch) -> Path:
    """The folder where URLs' files go; no waiting between tries."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def refused(url: str) -> str:
    """The message with which a download fails."""
    with pytest.raises(ConfigError) as error:
        resolve_file(url, "model.ckpt")
    assert str(error.value).startswith("model.ckpt: ")
    return str(error.value)


def ranges(server: FileServer) -> list[tuple[str | None, int]]:
    """Of each request, the range it asked for and the bytes that were sent."""
    return [(seen.headers.get("range"), seen.sent) for seen in server.seen]


def leftovers(checkpoints: Path) -> list[str]:
    """The names of all files but locks."""
    return sorted(p.name for p in checkpoints.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_file_is_fetched_once(server, checkpoints) -> None:
    url, _ = server.serve("/dir/a b.pth", DATA)
    path = resolve_file(url, "k")
    assert path.read_bytes() == DATA
    assert (path.name, path.parent.parent) == ("a_b.pth", checkpoints)
    assert leftovers(checkpoints) == ["a_b.pth"]
    assert resolve_file(url, "k") == path
    assert ranges(server) == [(None, len(DATA))]


def test_a_connection_that_is_cut_twice(server, checkpoints) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=iter([500_000, 700_001]))
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server) == [(None, 500_000), ("bytes=500000-", 700_001), ("bytes=1200001-", 1_799_999)]
    assert leftovers(checkpoints) == ["a.pth"]


def test_a_connection_that_is_cut_for_ever_and_the_next_run(server, checkpoints) -> None:
    url, file = server.serve("/a.pth", DATA, cuts=chain([1_000_000], repeat(0)))
    message = refused(url)
    assert f"{url} stopped after 1,000,000 of 3,000,000 bytes (the connection was cut)" in message
    part = next(checkpoints.rglob("a.pth.part"))
    assert f"they are kept in {part}, and the next run continues from there" in message
    assert part.read_bytes() == DATA[:1_000_000]
    assert ranges(server) == [(None, 1_000_000), *[("bytes=1000000-", 0)] * 3]
    assert not locate(WeightSource("k", url, "file")).present
    file.cuts = iter(())
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server)[4:] == [("bytes=1000000-", 2_000_000)]
    assert server.seen[-1].headers["if-range"] == '"1"'
    assert leftovers(checkpoints) == ["a.pth"]


def test_a_connection_that_always_goes_a_bit_further(server) -> None:
    """More cuts than tries: each one that brings something new makes up for the tries before."""
    url, _ = server.serve("/a.pth", DATA, cuts=chain(*([0, 300_000] for _ in range(9))))
    assert resolve_file(url, "k").read_bytes() == DATA


def test_a_server_that_starts_over_and_is_always_cut_at_the_same_place(server) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=repeat(1_000_000), ranges=False)
    assert "stopped after 1,000,000 of 3,000,000 bytes" in refused(url)
    assert len(server.seen) == 4


def test_a_server_that_ignores_ranges(server) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=iter([1_000_000]), ranges=False)
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server) == [(None, 1_000_000), ("bytes=1000000-", len(DATA))]


@pytest.mark.parametrize("checks_if_range", [True, False])
@pytest.mark.parametrize("data", [OTHER, OTHER[:2_000_000], OTHER[:1_000_000], OTHER[:10], OTHER * 2])
def test_a_file_that_changes_between_two_runs(server, checkpoints, data, checks_if_range) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=chain([1_000_000], repeat(0)))
    refused(url)
    server.serve("/a.pth", data, etag='"2"', checks_if_range=checks_if_range)
    assert resolve_file(url, "k").read_bytes() == data
    assert leftovers(checkpoints) == ["a.pth"]


def test_a_file_that_has_moved(server) -> None:
    """As releases and large files on code hosts do; what is left is asked for at the new place as well."""
    url, _ = server.serve("/old.pth", b"")
    server.files["/old.pth"] = "/new?signature=1"
    server.serve("/new", DATA, cuts=iter([1_000_000]))
    path = resolve_file(url, "k")
    assert (path.name, path.read_bytes()) == ("old.pth", DATA)
    assert ranges(server) == [(None, 0), (None, 1_000_000), *[("bytes=1000000-", n) for n in (0, 2_000_000)]]


def test_the_date_serves_where_there_is_no_strong_etag(server) -> None:
    date = {"Last-Modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    url, _ = server.serve("/a.pth", DATA, etag=None, headers=date | {"ETag": 'W/"1"'}, cuts=iter([1_000_000]))
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server)[1] == ("bytes=1000000-", 2_000_000)
    assert server.seen[1].headers["if-range"] == date["Last-Modified"]


def test_without_etag_and_date_nothing_is_joined(server) -> None:
    url, _ = server.serve("/a.pth", DATA, etag=None, cuts=iter([1_000_000]))
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server) == [(None, 1_000_000), (None, len(DATA))]


def test_a_server_that_does_not_say_how_long_the_file_is(server) -> None:
    url, _ = server.serve("/a.pth", DATA, sized=False)
    assert resolve_file(url, "k").read_bytes() == DATA


def test_a_run_that_ended_just_before_the_renaming(server, checkpoints, monkeypatch) -> None:
    url, _ = server.serve("/a.pth", DATA)
    with monkeypatch.context() as patch:
        patch.setattr(download.Download, "_check_hash", raises(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            resolve_file(url, "k")
    assert leftovers(checkpoints) == ["a.pth.part", "a.pth.part.json"]
    assert resolve_file(url, "k").read_bytes() == DATA
    assert len(server.seen) == 1


def raises(error: BaseException):
    def function(*_, **__):
        raise error

    return function


def test_damaged_notes_are_no_notes(server, checkpoints) -> None:
    url, file = server.serve("/a.pth", DATA, cuts=chain([1_000_000], repeat(0)))
    refused(url)
    next(checkpoints.rglob("*.json")).write_text("[")
    file.cuts = iter(())
    assert resolve_file(url, "k").read_bytes() == DATA
    assert ranges(server)[-1] == (None, len(DATA))


@pytest.mark.parametrize(
    ("name", "fragment"),
    [
        ("a.pth", f"#sha256={SHA256}"),
        ("a.pth", f"#sha256={SHA256.upper()}"),
        (f"a-{SHA256[:8]}.pth", ""),
        (f"a-{SHA256}.pth", ""),
        ("a-01234567.pth", ""),  # digits alone may be a date
        ("a-20230401.pth", ""),
        ("a-abcdef0.pth", ""),  # seven
        ("a-deadbeef.pth", f"#sha256={SHA256}"),  # who names a hash knows better
    ],
)
def test_a_hash_that_is_right_or_none(server, name, fragment) -> None:
    url, _ = server.serve(f"/{name}", DATA)
    assert resolve_file(url + fragment, "k").read_bytes() == DATA


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


def test_a_hash_that_is_named_later_is_checked_once(server, monkeypatch) -> None:
    url, _ = server.serve("/a.pth", DATA)
    path = resolve_file(url, "k")
    assert f"the SHA-256 of {path} is {SHA256}, not {'0' * 64}" in refused(f"{url}#sha256={'0' * 64}")
    assert resolve_file(f"{url}#sha256={SHA256}", "k") == path
    monkeypatch.setattr("minigpt4.weights.locations.sha256_of", raises(AssertionError()))
    assert resolve_file(f"{url}#sha256={SHA256}", "k") == path
    assert len(server.seen) == 1


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


def test_a_read_only_cache_is_read(server, checkpoints, monkeypatch) -> None:
    url, _ = server.serve("/a.pth", DATA)
    path = resolve_file(url, "k")
    for function in ("open", "mkdir", "write_text", "touch"):
        monkeypatch.setattr(Path, function, raises(OSError(errno.EROFS, "read-only")))
    monkeypatch.setattr("minigpt4.weights.locations.sha256_of", lambda _: SHA256)
    assert resolve_file(f"{url}#sha256={SHA256}", "k") == path


def test_files_of_one_name_lie_apart_and_none_escapes(server, checkpoints) -> None:
    paths = ["/a/x.pth", "/b/x.pth", "/a/x.pth?v=1", "/..%2f..%2fx.pth", "/%00/..", "/a\\..\\x.pth", "/CON:1"]
    places = [Path(locate(WeightSource("k", server.url + path, "file")).path) for path in paths]
    assert len({place.parent for place in places}) == len(paths)
    assert {place.parent.parent for place in places} == {checkpoints}
    assert [p.name for p in places] == ["x.pth", "x.pth", "x.pth", "x.pth", "file", "a_.._x.pth", "CON_1"]
    for number, path in enumerate(paths[:2]):
        server.serve(path, bytes([number]))
    assert [resolve_file(server.url + path, "k").read_bytes() for path in paths[:2]] == [b"\0", b"\1"]


@pytest.mark.parametrize("url", [EVA_CLIP_G_URL, BLIP2_URL])
def test_what_the_original_downloaded_is_used(checkpoints, url) -> None:
    place = checkpoints / url.rsplit("/", 1)[-1]
    assert locate(WeightSource("k", url, "file")).path == place
    checkpoints.mkdir(parents=True)
    place.write_bytes(b"weights")
    assert locate(WeightSource("k", url, "file")).present
    assert resolve_file(url, "k") == place


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


@pytest.mark.parametrize("length", ["-5", "many", "1e9"])
def test_a_length_that_is_no_number(server, length) -> None:
    url, _ = server.serve("/a.pth", DATA, sized=False, headers={"Content-Length": length})
    assert resolve_file(url, "k").read_bytes() == DATA


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


def test_who_asks_at_once_gets_the_same_file(server, checkpoints) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=iter([1_000_000, 1_000_000]))
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: resolve_file(url, "k"), range(8)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == DATA
    assert len(server.seen) == 3


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

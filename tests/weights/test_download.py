"""Weights at URLs, from a server that does all that servers do."""

import errno
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, repeat
from pathlib import Path

import pytest

from minigpt4.weights import download
from minigpt4.weights.locations import BLIP2_URL, EVA_CLIP_G_URL
from minigpt4.weights.resolver import WeightSource, locate, resolve_file
from tests.support.downloads import DATA, SHA256, leftovers, raises, ranges, refused

pytestmark = pytest.mark.usefixtures("checkpoints")

OTHER = random.Random(1).randbytes(3_000_000)


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


def test_a_hash_that_is_named_later_is_checked_once(server, monkeypatch) -> None:
    url, _ = server.serve("/a.pth", DATA)
    path = resolve_file(url, "k")
    assert f"the SHA-256 of {path} is {SHA256}, not {'0' * 64}" in refused(f"{url}#sha256={'0' * 64}")
    assert resolve_file(f"{url}#sha256={SHA256}", "k") == path
    monkeypatch.setattr("minigpt4.weights.locations.sha256_of", raises(AssertionError()))
    assert resolve_file(f"{url}#sha256={SHA256}", "k") == path
    assert len(server.seen) == 1


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


@pytest.mark.parametrize("length", ["-5", "many", "1e9"])
def test_a_length_that_is_no_number(server, length) -> None:
    url, _ = server.serve("/a.pth", DATA, sized=False, headers={"Content-Length": length})
    assert resolve_file(url, "k").read_bytes() == DATA


def test_who_asks_at_once_gets_the_same_file(server, checkpoints) -> None:
    url, _ = server.serve("/a.pth", DATA, cuts=iter([1_000_000, 1_000_000]))
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: resolve_file(url, "k"), range(8)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == DATA
    assert len(server.seen) == 3

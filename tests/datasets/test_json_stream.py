"""Annotations read entry by entry: the same values as all at once, and nothing that fills the memory."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets import json_stream
from minigpt4.datasets.datasets.json_stream import stream_list, stream_mapping

VALUES = [
    1,
    22,
    -4.5e10,
    True,
    None,
    'a\\"é😀',
    "",
    {"x": [1, 2, {"y": "z"}]},
    [],
    {},
    [[1], "\x00"],
    12345678901234567890,
]


def written(folder: Path, content: bytes | Any) -> Path:
    path = folder / "a.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


@pytest.mark.parametrize("chunk", [1, 2, 7, 2**20])
@pytest.mark.parametrize("style", [{}, {"indent": 1}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_stream_list_reads_what_json_reads(tmp_path, monkeypatch, chunk, style) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    for content in (
        VALUES,
        {"info": {"a": [1]}, "images": VALUES, "annotations": VALUES, "x": 1},
        {"data": VALUES},
    ):
        path = written(tmp_path, json.dumps(content, **style).encode())
        assert list(stream_list(path)) == VALUES
    assert list(stream_mapping(written(tmp_path, {"a": VALUES, "b": {}}))) == [("a", VALUES), ("b", {})]
    assert list(stream_list(written(tmp_path, {"images": [1, 2], "annotations": [3]}), "images")) == [1, 2]


def test_stream_list_takes_a_byte_order_mark(tmp_path) -> None:
    assert list(stream_list(written(tmp_path, b"\xef\xbb\xbf [1 , 2 ]\r\n"))) == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1}", r"a\.json is not valid JSON: ',' or '\]' is missing, at character 3"),
        (b"[1", r"is missing, at character 3"),
        (b"[1,]", r"Expecting value, at character 4"),
        (b'[{"a" 1}]', r"Expecting ':' delimiter, at character 7"),
        (b"[1] x", r"extra data, at character 5"),
        (b'["\xff"]', r"can't decode byte 0xff"),
        (b"[" * 100_000, r"maximum recursion depth"),
        (b'[{"a":' * 100_000, r"maximum recursion depth"),
        (b"[" + b"9" * 5_000 + b"]", r"limit"),
        (b"", r"must hold a list of entries, or a mapping with one under 'annotations' or 'data'"),
        (b"5", r"must hold a list"),
        (b'{"annotations": 5}', r"must hold a list"),
        (b"{1: 2}", r"a key must be text, at character 2"),
    ],
)
def test_stream_list_says_what_is_wrong(tmp_path, content, message) -> None:
    with pytest.raises(DataError, match=message):
        list(stream_list(written(tmp_path, content)))


def test_stream_list_does_not_wait_for_devices(tmp_path) -> None:
    for path, message in {
        tmp_path / "none.json": "does not exist",
        Path("/dev/zero"): "is not a regular file",
    }.items():
        with pytest.raises(DataError, match=message):
            list(stream_list(path))


def test_stream_list_refuses_an_entry_without_end(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "LARGEST", 1000)
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    with pytest.raises(DataError, match=r"an entry of more than 1,000 characters, at character 8"):
        list(stream_list(written(tmp_path, [1, 2, "x" * 10_000])))
    assert len(list(stream_list(written(tmp_path, ["x" * 900] * 50)))) == 50


def test_stream_list_agrees_on_damaged_files(tmp_path, monkeypatch) -> None:
    """Whatever byte is changed: refused, or read as json.loads reads it."""
    monkeypatch.setattr(json_stream, "CHUNK", 5)
    good, rng, refused = json.dumps(VALUES).encode(), random.Random(0), 0
    for _ in range(300):
        bad = bytearray(good)
        bad[rng.randrange(len(bad))] = rng.choice(b'[]{}",:0 e-\\t')
        try:
            expected = json.loads(bytes(bad))
        except ValueError:
            refused += 1
            with pytest.raises(DataError):
                list(stream_list(written(tmp_path, bytes(bad))))
        else:
            if isinstance(expected, list):
                assert list(stream_list(written(tmp_path, bytes(bad)))) == expected
    assert refused > 50

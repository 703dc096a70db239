"""log.jsonl survives kills, power cuts and full disks."""

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.logger import JsonLines, write_json

# The second text has a character at which str.splitlines() splits.
RECORDS = [
    {"step": 1, "loss": 2.5, "bad": {}},
    {"step": 2, "loss": 0.1, "bad": {"schön\u2028": 1}},
    {"step": 2, "valid_loss": 2.25},
    {"step": 3, "loss": 1e-9, "bad": {}},
]


@pytest.fixture
def log(tmp_path: Path) -> JsonLines:
    log = JsonLines(tmp_path / "log.jsonl")
    for record in RECORDS:
        log.write(**record)
    return log


def test_json_lines_read_what_was_written(log: JsonLines) -> None:
    assert log.read() == RECORDS
    assert log.path.read_bytes().count(b"\n") == 4
    assert JsonLines(log.path.with_name("none.jsonl")).read() == []


def test_json_lines_read_what_is_whole_wherever_a_kill_cut(log: JsonLines) -> None:
    data = log.path.read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)  # only the line's end may be missing
        log.path.write_bytes(data[:cut])
        assert log.read() == RECORDS[:whole], cut
        log.drop_after(10)
        log.write(step=11)
        assert log.read() == [*RECORDS[:whole], {"step": 11}], cut


def test_json_lines_after_a_power_cut_that_leaves_zeros(log: JsonLines) -> None:
    with log.path.open("ab") as file:
        file.write(bytes(4096))
    assert log.read() == RECORDS


DAMAGED = [
    *(b'{"step": 2,', b"\xff\xfe\x00", b"5", b"null", b'{"loss": 1.0}', b'{"step": "2"}', b'{"step": true}'),
    *(b"[" * 100_000, bytes(100), b'{"step": 1}{"step": 2}'),
]


@pytest.mark.parametrize("line", DAMAGED, ids=lambda line: repr(line[:20]))
def test_json_lines_set_a_damaged_line_aside(log: JsonLines, caplog, line: bytes) -> None:
    lines = log.path.read_bytes().split(b"\n")
    log.path.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    assert log.read() == [RECORDS[0], *RECORDS[2:]]
    log.drop_after(2)
    assert log.read() == [RECORDS[0], RECORDS[2]]
    aside = log.path.with_name("log.jsonl.damaged")
    assert aside.read_bytes() == line + b"\n" and f"1 damaged line moved to {aside}" in caplog.text
    log.drop_after(2)
    assert aside.read_bytes() == line + b"\n"  # once


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
def test_json_lines_drop_later_steps(log: JsonLines, step: int, kept: int) -> None:
    log.drop_after(step)
    assert log.read() == RECORDS[:kept]
    assert [path.name for path in log.path.parent.iterdir()] == ["log.jsonl"]


def test_json_lines_drop_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    JsonLines(tmp_path / "log.jsonl").drop_after(3)
    assert list(tmp_path.iterdir()) == []


def test_json_lines_on_a_full_disk_leave_no_torn_line(log: JsonLines) -> None:
    resource = pytest.importorskip("resource", reason="limits of a file's size are Unix's")
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # room for ten more bytes
    try:
        with pytest.raises(OSError, match="too large"):
            log.write(step=4, loss=1.0)
        assert log.path.read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.write(step=4, loss=1.0)
    assert log.read() == [*RECORDS, {"step": 4, "loss": 1.0}]


def test_write_json_writes_names_that_are_not_utf8(tmp_path: Path) -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    write_json(tmp_path / "report.json", {"image_id": name, "text": "ä"})
    data = (tmp_path / "report.json").read_bytes()
    assert json.loads(data.decode("utf-8")) == {"image_id": name, "text": "ä"}


@pytest.mark.parametrize("content", [{"a": object()}, {"a": {1, 2}}])
def test_write_json_leaves_the_file_where_it_fails(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": "ä"})
    with pytest.raises(TypeError):
        write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    assert list(tmp_path.iterdir()) == [path]

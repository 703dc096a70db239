"""log.jsonl survives kills, power cuts and full disks; files are written whole."""

import json
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.errors import UserError
from minigpt4.common.files import replacing
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


def test_what_is_written_is_read(log: JsonLines) -> None:
    assert log.read() == RECORDS
    assert log.path.read_bytes().count(b"\n") == 4
    assert JsonLines(log.path.with_name("none.jsonl")).read() == []


def test_wherever_a_kill_cuts_the_file_the_whole_lines_are_read_and_the_run_goes_on(log: JsonLines) -> None:
    data = log.path.read_bytes()
    ends = [i for i, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends)  # only the line's end may be missing
        log.path.write_bytes(data[:cut])
        assert log.read() == RECORDS[:whole], cut
        log.drop_after(10)
        log.write(step=11)
        assert log.read() == [*RECORDS[:whole], {"step": 11}], cut


def test_a_power_cut_that_leaves_zeros(log: JsonLines) -> None:
    with log.path.open("ab") as file:
        file.write(bytes(4096))
    assert log.read() == RECORDS


def test_a_damaged_line_in_the_middle_is_named(log: JsonLines) -> None:
    lines = log.path.read_text(encoding="utf-8").split("\n")
    log.path.write_text("\n".join([lines[0], '{"step": 2,', *lines[2:]]), encoding="utf-8")
    with pytest.raises(UserError, match=r"log\.jsonl, line 2 is not JSON, delete it"):
        log.read()


@pytest.mark.parametrize(("step", "kept"), [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
def test_later_steps_are_forgotten(log: JsonLines, step: int, kept: int) -> None:
    log.drop_after(step)
    assert log.read() == RECORDS[:kept]
    assert [path.name for path in log.path.parent.iterdir()] == ["log.jsonl"]


def test_nothing_to_forget(tmp_path: Path) -> None:
    JsonLines(tmp_path / "log.jsonl").drop_after(3)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_torn_line(log: JsonLines) -> None:
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


@pytest.mark.parametrize("content", [{"a": object()}, {"a": {1, 2}}])
def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "report.json"
    write_json(path, {"a": "ä"})
    with pytest.raises(TypeError):
        write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "ä"}
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def draw() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]

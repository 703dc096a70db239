"""The journal of an evaluation: what is kept when it is killed, and what is refused."""

import pytest

from minigpt4.commands.evaluated_parts import PARTIAL, Journal, in_order, read_part
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.tasks.records import Record

KEY, OTHER = ("", "a", "test"), ("grey", "a", "test")
MADE = {"limit": None, "config": "x.yaml"}


def record(number: int) -> Record:
    return Record(image_id=str(number), truth="t", references=("t", "u"), scores={"accuracy": 1.0})


def killed(path, made, steps) -> None:
    """A process that is killed after some steps."""
    with pytest.raises(KeyboardInterrupt), Journal.of_part(path, made) as journal:
        steps(journal)


def killing(journal) -> None:
    journal.add(KEY, [record(0), record(1)], [("entry 1", "broken image")])
    journal.finish(KEY)
    journal.add(OTHER, [record(2)])
    raise KeyboardInterrupt


def test_journal_goes_on_where_it_was_killed(tmp_path) -> None:
    path = tmp_path / "part.json"
    killed(path, MADE, killing)
    assert not path.exists()
    partial = tmp_path / f"part.json{PARTIAL}"
    with partial.open("ab") as file:
        file.write(b'{"key": ["grey", "a", "test"], "reco')  # torn
    with Journal.of_part(path, MADE) as journal:
        assert journal.finished == {KEY}
        assert [len(batch) for batch in journal.batches[OTHER]] == [1]
        journal.add(OTHER, [])
        journal.add(OTHER, [record(3)], [("entry 7", "image missing")])
        journal.finish(OTHER)
    assert not partial.exists()
    part = read_part(path, MADE)
    batches = part.batches
    assert [one.image_id for one in in_order([batches], KEY)] == ["0", "1"]
    assert [one.image_id for one in in_order([batches], OTHER)] == ["2", "3"]
    assert part.skipped == {KEY: [("entry 1", "broken image")], OTHER: [("entry 7", "image missing")]}
    assert batches[KEY][0][0].answers == ["t", "u"] and batches[KEY][0][0].scores == {"accuracy": 1.0}


def test_journal_of_other_settings_is_refused(tmp_path) -> None:
    path = tmp_path / "part.json"
    killed(path, MADE, killing)
    with pytest.raises(ConfigError, match="another config"), Journal.of_part(path, MADE | {"limit": 3}):
        pass
    with Journal.of_part(path, MADE) as journal:
        journal.finish(KEY)
    with pytest.raises(ConfigError, match="another config"):
        read_part(path, {})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]\n", b'{"made": {}}\n', b'{"made": {}}\n{"key": 3}\n', b"\xff\n"]
)
def test_read_part_refuses_what_is_no_part(tmp_path, content) -> None:
    (tmp_path / "part.json").write_bytes(content)
    with pytest.raises(ConfigError, match="is not part of a report"):
        read_part(tmp_path / "part.json", {})


def test_in_order_takes_batches_in_turn() -> None:
    parts = [{KEY: [[record(0)], [record(2), record(3)]]}, {KEY: [[record(1)]]}]
    assert [one.image_id for one in in_order(parts, KEY)] == ["0", "1", "2", "3"]
    with pytest.raises(DataError, match=r"no records of a\.test"):
        in_order(parts, OTHER)

"""Work in shares: who does what, and that nothing is put together with a gap."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.common.lock import Lock
from minigpt4.common.parts import Parts, Share, add_arguments


@pytest.fixture(autouse=True)
def alone(monkeypatch) -> None:
    for name in (
        "RANK",
        "WORLD_SIZE",
        *(f"SLURM_ARRAY_TASK_{one}" for one in ("ID", "MIN", "MAX", "COUNT", "STEP")),
    ):
        monkeypatch.delenv(name, raising=False)


def share(*words: str) -> Share:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Share.of(parser.parse_args(words))


def slurm(monkeypatch, **values: Any) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


def test_share_as_the_arguments_say() -> None:
    assert share() == Share(0, 1) == Share.of(argparse.Namespace())
    assert share("--shard-index", "2", "--num-shards", "3") == Share(2, 3)
    assert share("--num-shards", "1") == Share(0, 1)
    assert share("--num-shards", "8", "--merge") == Share(0, 8, merge_only=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard-index", "0"], "--shard-index needs --num-shards"),
        (["--num-shards", "2"], "--num-shards is 2: please set --shard-index, too"),
        (["--num-shards", "0"], "--num-shards is 0, it must be at least 1"),
        (["--num-shards", "2", "--shard-index", "2"], "--shard-index is 2, it must be from 0 to 1"),
        (["--num-shards", "2", "--shard-index", "-1"], "--shard-index is -1, it must be from 0 to 1"),
    ],
)
def test_share_that_there_is_not(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        share(*words)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ID": 3, "MIN": 1, "MAX": 8, "COUNT": 8, "STEP": 1}, Share(2, 8)),
        ({"ID": 14, "MIN": 10, "MAX": 18, "COUNT": 5, "STEP": 2}, Share(2, 5)),
        ({"ID": 0, "MIN": 0, "MAX": 0, "COUNT": 1, "STEP": 1}, Share(0, 1)),
        ({"ID": 1, "COUNT": 4}, Share(1, 4)),
    ],
)
def test_share_of_a_job_array(monkeypatch, values: dict[str, int], expected: Share) -> None:
    slurm(monkeypatch, **values)
    assert share() == expected
    assert share("--num-shards", "1") == Share(0, 1)
    assert share("--num-shards", str(expected.count)) == expected
    assert share("--shard-index", "5", "--num-shards", "9") == Share(5, 9)


@pytest.mark.parametrize(
    "values",
    [
        {"ID": 5, "MIN": 1, "MAX": 9, "COUNT": 3, "STEP": 1},  # --array=1,5,9
        {"ID": "x", "MIN": 1, "MAX": 9, "COUNT": 3, "STEP": 1},
        {"ID": 5, "MIN": 1, "MAX": 9, "COUNT": 9, "STEP": 0},
        {"ID": 99, "MIN": 1, "MAX": 9, "COUNT": 9, "STEP": 1},
    ],
)
def test_share_of_a_job_array_with_holes(monkeypatch, values: dict[str, Any]) -> None:
    slurm(monkeypatch, **values)
    with pytest.raises(ConfigError, match="SLURM's"):
        share()


def test_share_of_ranks_and_machines(monkeypatch) -> None:
    """Every item is in one share."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    shares = []
    for index in range(3):
        for rank in range(2):
            monkeypatch.setenv("RANK", str(rank))
            shares.append(share("--shard-index", str(index), "--num-shards", "3"))
    assert sorted(item for one in shares for item in one.take(range(100))) == list(range(100))
    assert {one.count for one in shares} == {6}


def done(out: Path, index: int, count: int = 3) -> Parts:
    parts = Parts(out, Share(index, count), "--out")
    with parts.claimed() as path:
        path.write_text(f"{index}\n")
    return parts


def put_together(out: Path) -> Any:
    return lambda paths: out.write_text("".join(path.read_text() for path in paths))


def test_parts_are_put_together_by_the_last(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    for index in (2, 0):
        assert not done(out, index).merge(put_together(out))
    assert not out.exists()
    assert [path.name for path in sorted((tmp_path / "report.json.parts").iterdir())] == [
        "00000-of-00003.json",
        "00002-of-00003.json",
    ]
    assert done(out, 1).merge(put_together(out))
    assert out.read_text() == "0\n1\n2\n" and [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_parts_with_a_gap_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    only = Parts(out, Share(0, 3, merge_only=True), "--out")
    done(out, 1)
    with pytest.raises(ConfigError, match=r"^--out: .*report\.json\.parts: 2 of 3 parts are missing: 0, 2$"):
        only.merge(put_together(out))
    done(out, 0), done(out, 2)
    assert only.merge(put_together(out)) and out.read_text() == "0\n1\n2\n"


def test_part_is_made_by_one_process(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "a.json", Share(1, 3), "--out")
    with (
        parts.claimed(),
        pytest.raises(ConfigError, match=r"00001-of-00003\.json is being computed by"),
        parts.claimed(),
    ):
        pass
    with Parts(tmp_path / "a.json", Share(2, 3), "--out").claimed():
        pass


def test_parts_of_another_number_are_refused(tmp_path: Path) -> None:
    done(tmp_path / "a.json", 0, count=2)
    with pytest.raises(ConfigError, match=r"holds parts of 2 shares, not of 3"):
        done(tmp_path / "a.json", 0)


def test_parts_that_cannot_be_put_together_stay(tmp_path: Path) -> None:
    out = tmp_path / "a.json"
    for index in range(3):
        parts = done(out, index)

    def fail(_: list[Path]) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        parts.merge(fail)
    with Lock(parts.folder / ".merge.lock"):  # another share is at it
        assert not parts.merge(put_together(out))
    assert parts.merge(put_together(out)) and out.read_text() == "0\n1\n2\n"
    assert not Parts(out, Share(0, 3), "--out").merge(put_together(out))

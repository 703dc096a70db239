"""dataset/hold_out.py divides shards without losing or changing a file."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from dataset.hold_out import main
from dataset.shapes.make_shards import write_split
from tests.support import ROOT
from tests.support.shards import write_good, write_shard


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def hold_out(tmp_path: Path, last: int) -> subprocess.CompletedProcess:
    write_split(tmp_path / "in", "train", 10, seed=0, samples_per_shard=4)
    words = ["dataset/hold_out.py", f"{tmp_path}/in/{{00000..00002}}.tar", "--last", str(last)]
    return subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True
    )


def divide(monkeypatch: pytest.MonkeyPatch, shards: str | Path, out: Path) -> None:
    words = ["hold_out.py", str(shards), "--last", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    main()


def test_the_last_are_held_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    assert hold_out(tmp_path, 3).returncode == 0
    before = [member for i in range(3) for member in members(tmp_path / "in" / f"{i:05d}.tar")]
    train = members(tmp_path / "out" / "train" / "00000.tar")
    test = members(tmp_path / "out" / "test" / "00000.tar")
    assert train + test == before
    assert {name.split(".")[0] for name, _ in test} == {"000000007", "000000008", "000000009"}


def test_holding_out_everything_is_refused(tmp_path: Path) -> None:
    done = hold_out(tmp_path, 10)
    assert done.returncode == 2
    assert "--last must be from 1 to 9, found 10" in done.stderr


def test_samples_are_grouped_as_training_groups_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `./`, dots in a folder's name, and macOS' files in between."""
    names = [f"./v1.0/{key}.{suffix}" for key in ("a", "b", "c") for suffix in ("jpg", "txt")]
    shards = tmp_path / "in"
    shards.mkdir()
    write_shard(
        shards / "0.tar",
        [(one, b"x") for name in names for one in (name, name.replace("/v1.0/", "/v1.0/._"))],
    )
    divide(monkeypatch, shards, tmp_path / "out")
    assert [name for name, _ in members(tmp_path / "out" / "test" / "00000.tar")] == [
        "v1.0/c.jpg",
        "v1.0/c.txt",
    ]
    assert len(members(tmp_path / "out" / "train" / "00000.tar")) == 4


def test_a_damaged_shard_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shard,) = write_good(tmp_path, shards=1, each=3)
    Path(shard).write_bytes(Path(shard).read_bytes()[:3000])
    with pytest.raises(SystemExit, match=f"^error: {shard}: truncated shard"):
        divide(monkeypatch, shard, tmp_path / "out")

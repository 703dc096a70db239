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


def divide(monkeypatch: pytest.MonkeyPatch, shards: str | Path, out: Path, last: int = 1) -> None:
    words = ["hold_out.py", str(shards), "--last", str(last), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    main()


def test_the_last_are_held_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    """As the command that the documents show."""
    write_split(tmp_path / "in", "train", 10, seed=0, samples_per_shard=4)
    words = [f"{tmp_path}/in/{{00000..00002}}.tar", "--last", "3", "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "dataset/hold_out.py", *words], cwd=ROOT, check=True)
    before = [member for i in range(3) for member in members(tmp_path / "in" / f"{i:05d}.tar")]
    train = members(tmp_path / "out" / "train" / "00000.tar")
    test = members(tmp_path / "out" / "test" / "00000.tar")
    assert train + test == before
    assert {name.split(".")[0] for name, _ in test} == {"000000007", "000000008", "000000009"}


def test_holding_out_everything_is_refused(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "in").mkdir()
    write_good(tmp_path / "in", shards=2, each=5)
    with pytest.raises(SystemExit) as end:
        divide(monkeypatch, tmp_path / "in", tmp_path / "out", last=10)
    assert end.value.code == 2 and not (tmp_path / "out").exists()
    assert "--last must be from 1 to 9, found 10" in capsys.readouterr().err


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

"""dataset/hold_out.py divides shards without losing or changing a file."""

import subprocess
import sys
import tarfile
from pathlib import Path

from dataset.shapes.make_shards import write_split
from tests.support import ROOT


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]


def hold_out(tmp_path: Path, last: int) -> subprocess.CompletedProcess:
    write_split(tmp_path / "in", "train", 10, seed=0, samples_per_shard=4)
    words = ["dataset/hold_out.py", f"{tmp_path}/in/{{00000..00002}}.tar", "--last", str(last)]
    return subprocess.run(
        [sys.executable, *words, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True
    )


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

"""The scripts that write a folder of data leave one that is there as it is."""

import importlib
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "shapes.make_shards": [],
    "shapes.make_align": [],
    "shapes.make_clips": [],
    "shapes.make_v2": [],
    "pictures.make_pictures": ["--packages", "packages"],
    "hold_out": ["0.tar", "--last", "1"],
    "convert_easy_vqa": [],
}


@pytest.mark.unit
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_folder_that_is_there_is_refused(script: str, tmp_path: Path, monkeypatch) -> None:
    shard = tmp_path / "out" / "train" / "00000.tar"
    shard.parent.mkdir(parents=True)
    shard.write_text("others")
    monkeypatch.setattr(sys, "argv", [script, *SCRIPTS[script], "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=f"^error: --out: {tmp_path / 'out'} ") as end:
        importlib.import_module(f"dataset.{script}").main()
    assert "exists already" in str(end.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [shard]
    assert shard.read_text() == "others"

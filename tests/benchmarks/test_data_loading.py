"""The benchmark of the stream runs on any shards, and says what it promises."""

import json
import runpy
import sys

import pytest
import torch

from tests.support import ROOT
from tests.support.shards import encoded, picture, sample, write_shard

SCRIPT = ROOT / "benchmarks" / "data_loading.py"


@pytest.fixture
def run_benchmark(monkeypatch):
    """Runs the script in this process."""
    threads = torch.get_num_threads()

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("resized", [None, 40])
def test_figures_of_a_mixed_shard(run_benchmark, tmp_path, resized) -> None:
    """One picture of the right size, two to be resized, two bad ones; captions in JSON or text."""
    shard = write_shard(
        tmp_path / "0.tar",
        [
            *sample("a", encoded(picture(1, size=32)), caption=None, meta={"caption": "a"}),
            *sample("b", b"no picture"),
            *sample("c", encoded(picture(2, size=64), "PNG"), suffix="png"),
            *sample("d", None),
            *sample("e", encoded(picture(3, size=50), "WEBP"), suffix="webp"),
        ],
    )
    file = tmp_path / "new" / "figures.json"
    options = ["--resized", str(resized)] if resized else []
    run_benchmark(
        *("--shards", shard, "--image-size", "32", "--batch-size", "2", "--rounds", "2"),
        *("--profile", "--json", str(file), *options),
    )
    figures = json.loads(file.read_text())
    assert figures["samples"] == 3
    ours, baseline = (figures[f"{way}samples_per_second_per_core"] for way in ("", "baseline_"))
    assert figures["speedup"] > 0 and ours > 0 and baseline > 0
    assert figures["pixel_difference_unit"] == "1/255"
    assert figures["max_abs_pixel_difference"] <= 2 and figures["mean_abs_pixel_difference"] <= 0.025
    assert all(figures["profile_microseconds"][part] > 0 for part in ("tar", "decode", "collate"))


def test_a_mistake_is_one_line(run_benchmark, tmp_path) -> None:
    for storage in (str(tmp_path / "{0..3}.tar"), write_shard(tmp_path / "bad.tar", sample("x", None))):
        with pytest.raises(SystemExit) as end:
            run_benchmark("--shards", storage, "--rounds", "1")
        assert end.value.code.startswith("error: --shards") and storage in end.value.code

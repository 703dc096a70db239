"""What the runners' tests share."""

from pathlib import Path

import pytest

from dataset.shapes.make_shards import write_split


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_split(folder / "train", "train", 40, seed=0, samples_per_shard=20)
    write_split(folder / "test", "test", 10, seed=0, samples_per_shard=10)
    return folder

"""What the runners' tests share."""

from pathlib import Path
from typing import Any

import pytest

from dataset.shapes.make_shards import write_split
from tests.support.attempts import eventful, left_where_stopped
from tests.support.runs import drawing_nothing, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    write_split(folder / "train", "train", 40, seed=0, samples_per_shard=20)
    write_split(folder / "test", "test", 10, seed=0, samples_per_shard=10)
    return folder


@pytest.fixture(scope="session")
def undisturbed(shapes, tmp_path_factory) -> dict[str, Any]:
    """What a run that nobody stops leaves, without what depends on the moment of a stop."""
    job = tmp_path_factory.mktemp("undisturbed") / "job"
    with drawing_nothing():
        train(eventful(shapes, job))
    return left_where_stopped(job)

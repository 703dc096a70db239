"""What a launcher has told a process, from its environment."""

import re
from pathlib import Path

import pytest

from minigpt4.common import launch
from tests.support import ROOT

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def facts() -> tuple[bool, int, int, int, int]:
    ranks = launch.rank(), launch.local_rank(), launch.world_size(), launch.local_world_size()
    return launch.is_launched(), *ranks


def test_launch_of_a_lone_process(launched: pytest.MonkeyPatch) -> None:
    assert facts() == (False, 0, 0, 1, 1)
    assert (launch.wants_cpu(), launch.wants_sharding(), launch.ranks_per_model()) == (False, False, 1)


def test_launch_reads_the_launchers_environment(launched: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("13", "5", "16", "8", "true", "True"), strict=True):
        launched.setenv(name, value)
    assert facts() == (True, 13, 5, 16, 8)
    assert (launch.wants_cpu(), launch.wants_sharding()) == (True, True)
    launched.setenv("ACCELERATE_USE_FSDP", "false")
    assert not launch.wants_sharding()


@pytest.mark.parametrize(("here", "all_ranks", "together"), [("8", "16", 8), ("1", "2", 2), ("1", "1", 1)])
def test_ranks_per_model_are_a_machines_or_all(
    launched: pytest.MonkeyPatch, here: str, all_ranks: str, together: int
) -> None:
    launched.setenv("LOCAL_WORLD_SIZE", here)
    launched.setenv("WORLD_SIZE", all_ranks)
    assert launch.ranks_per_model() == together


def test_launch_is_the_only_file_that_reads_these_variables() -> None:
    pattern = re.compile(rf"""["']({"|".join(NAMES)})["']|ACCELERATE_USE""")
    readers = [path for path in (ROOT / "minigpt4").rglob("*.py") if pattern.search(path.read_text("utf-8"))]
    assert readers == [Path(launch.__file__).resolve()]

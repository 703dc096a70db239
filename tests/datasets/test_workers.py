"""A process that reads dies: what ends is one line that names it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from torch.utils.data import DataLoader, IterableDataset

from minigpt4.common.errors import BadSample, DataError
from minigpt4.datasets.workers import read_by_workers
from minigpt4.processors.pictures import MAX_FILE_BYTES, read_picture


class Dying(IterableDataset):
    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[int]:
        yield from range(self.number)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="Windows has other signals")
@pytest.mark.parametrize("given", [0, 2])
def test_a_reader_that_is_killed_is_named(given: int) -> None:
    came = []
    with (
        pytest.raises(DataError, match=r"^numbers: worker \d+ was killed by SIGKILL\. "),
        read_by_workers(DataLoader(Dying(given), batch_size=None, num_workers=1), "numbers") as items,
    ):
        came += items


@pytest.mark.integration
def test_a_process_ends_although_it_did_not_close_its_loader() -> None:
    """Its workers ignore the signal with which Python ends such processes before it waits for them."""
    code = (
        "from minigpt4.datasets.loader import TrainLoader; import itertools\n"
        "from torch.utils.data import IterableDataset\n"
        "Data = type('Data', (IterableDataset,), {'__iter__': lambda self: itertools.count()})\n"
        "loader = TrainLoader(Data(), 1, False); loader.start(); print(loader.workers[0].pid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert not psutil.pid_exists(int(done.stdout))


def test_other_errors_stay_what_they_are() -> None:
    def fail(items: Iterator[int]) -> None:
        assert list(items) == [1, 2]
        raise RuntimeError("of the block")

    loader = DataLoader([1, 2], batch_size=None, num_workers=1)
    with pytest.raises(RuntimeError, match=r"^of the block$"), read_by_workers(loader, "numbers") as items:
        fail(items)


@pytest.mark.unit
def test_an_image_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(BadSample, match=r"^image too large$"):
        read_picture(tmp_path / "a.jpg")

"""A process that reads dies: what ends is one line that names it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

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

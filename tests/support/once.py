"""What takes long to make and nobody changes is made once, however many workers pytest-xdist has."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from filelock import FileLock

T = TypeVar("T")


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What `make` returned, to the first worker that asked; the others wait for it.

    Args:
        factory: pytest's fixture `tmp_path_factory`.
        name: of the new folder that `make` is given.
        make: what it returns can be pickled.
    """
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of all workers
    folder, made = base / name, base / f"{name}.pickle"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            folder.mkdir()
            made.write_bytes(pickle.dumps(make(folder)))
        return pickle.loads(made.read_bytes())

"""What the tests share: the recorded reference values, and a model built from them as a user would."""

import json
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import GOLDEN, TESTS
from tests.support.golden import build_golden_model
from tests.support.once import once
from tests.support.runs import drawing_nothing

# Folders whose tests are units, unless one is marked `integration` or talks to a server.
UNIT_FOLDERS = {
    "common",
    "compat",
    "prompts",
    "processors",
    "models",
    "tasks",
    "weights",
    "datasets",
    "serving",
}


def pytest_configure(config: pytest.Config) -> None:
    """Hide all CUDA cards from the tests and from what they start: the values they expect are a CPU's.

    What a process sees is settled when it looks for the first time, so the tests of a card need a run of
    their own: `pytest -m cuda`.
    """
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(tryfirst=True)  # before `-m unit` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of `make unit`."""
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0]
        starts_something = item.get_closest_marker("integration") or "server" in item.fixturenames
        if folder in UNIT_FOLDERS and not starts_something:
            item.add_marker("unit")


@pytest.fixture(scope="session")
def golden_model() -> torch.nn.Module:
    """Shared by tests that change nothing in it."""
    return build_golden_model()


@pytest.fixture(scope="session")
def golden_io() -> dict[str, Any]:
    return torch.load(GOLDEN / "minigpt4_io.pt", weights_only=True)


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    return json.loads((GOLDEN / "reference.json").read_text())


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Any:
    """One training run, executed in many ways: `tests.support.modes.Runs`."""
    from tests.support.modes import run_everything

    return once(tmp_path_factory, "runs", run_everything)


@pytest.fixture(autouse=True, scope="session")
def listen_to_ctrl_c() -> None:
    """A script's background job ignores it, and so would all that it starts; but some tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command sets up the logging of its whole process, which here goes on to the next test."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Shards for runs of a few steps; nobody changes them."""
    from tests.support.attempts import write_shapes

    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def undrawn() -> Iterator[None]:
    with drawing_nothing():
        yield

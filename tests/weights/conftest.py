"""What the tests of downloads share: a server of files, and the folder where they go."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from minigpt4.weights import download
from tests.support.hub_server import FileServer


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """The folder where URLs' files go; no waiting between tries."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "WAITS", (0.0, 0.0, 0.0))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server

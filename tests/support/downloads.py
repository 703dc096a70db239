"""A file to be downloaded, and what its download asked for and left."""

import hashlib
import random
from pathlib import Path

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.weights.resolver import resolve_file
from tests.support.hub_server import FileServer

DATA = random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def refused(url: str) -> str:
    """The message with which a download fails."""
    with pytest.raises(ConfigError) as error:
        resolve_file(url, "model.ckpt")
    assert str(error.value).startswith("model.ckpt: ")
    return str(error.value)


def raises(error: BaseException):
    def function(*_, **__):
        raise error

    return function


def ranges(server: FileServer) -> list[tuple[str | None, int]]:
    """Of each request, the range it asked for and the bytes that were sent."""
    return [(seen.headers.get("range"), seen.sent) for seen in server.seen]


def leftovers(checkpoints: Path) -> list[str]:
    """The names of all files but locks."""
    return sorted(p.name for p in checkpoints.rglob("*") if p.is_file() and p.suffix != ".lock")

"""Files on Google Drive: gdown fetches them, and a web page is never taken for a file."""

import hashlib
import inspect
import sys
import types
from pathlib import Path

import pytest
import torch

from minigpt4.common.errors import ConfigError
from minigpt4.weights.resolver import WeightSource, locate, resolve_file

FILE_ID = "1RY9jV0dyqLX-o38LrumkKRh6Jtaop58R"
PAGE = f"https://drive.google.com/file/d/{FILE_ID}/view?usp=sharing"
DATA = b"\x80\x02 tensors"


class Drive:
    """Stands in for gdown: it writes what Drive would send."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[str] = []

    def download(self, id: str, output: str, quiet: bool, resume: bool) -> None:
        self.asked.append(id)
        Path(output).write_bytes(self.content)


@pytest.fixture
def drive(tmp_path, monkeypatch) -> Drive:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    drive = Drive(DATA)
    monkeypatch.setitem(sys.modules, "gdown", drive)
    return drive


@pytest.mark.parametrize(
    "url",
    [
        PAGE,
        f"https://drive.google.com/open?id={FILE_ID}",
        f"https://drive.google.com/uc?export=download&id={FILE_ID}",
        f"https://drive.usercontent.google.com/download?id={FILE_ID}&confirm=t",
    ],
)
def test_drive_file_is_fetched_once_whatever_its_address(drive, url: str) -> None:
    assert not locate(WeightSource("model.ckpt", url, "file")).present
    path = resolve_file(url, "model.ckpt")
    assert path.read_bytes() == DATA and path.suffix == ".pth"
    assert resolve_file(PAGE, "model.ckpt") == path and drive.asked == [FILE_ID]
    assert not list(path.parent.glob("*.part"))


def test_drive_page_is_refused_and_leaves_nothing(drive, tmp_path) -> None:
    drive.content = b"<!DOCTYPE html><title>Quota exceeded</title>"
    with pytest.raises(ConfigError, match=rf"^model\.ckpt: .*{FILE_ID}/view"):
        resolve_file(PAGE, "model.ckpt")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_drive_hash_is_compared(drive) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    assert resolve_file(f"{PAGE}#sha256={digest}", "model.ckpt").read_bytes() == DATA
    other = "https://drive.google.com/file/d/1a4zLvaiDBr-36pasffmgpvH5P7CKmpze/view"
    with pytest.raises(ConfigError, match=digest):
        resolve_file(f"{other}#sha256={'0' * 64}", "model.ckpt")


def test_drive_without_gdown_says_how(drive, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(ConfigError, match=r"gdown.*in a browser"):
        resolve_file(PAGE, "model.ckpt")


def test_drive_folder_is_refused(drive) -> None:
    with pytest.raises(ConfigError, match=r"file/d/ID/view"):
        resolve_file("https://drive.google.com/drive/folders/2def", "model.ckpt")
    assert not drive.asked


def test_what_gdown_raises_is_one_line(drive, monkeypatch) -> None:
    broken = types.SimpleNamespace(download=lambda **_: 1 / 0)
    monkeypatch.setitem(sys.modules, "gdown", broken)
    with pytest.raises(ConfigError, match="division by zero"):
        resolve_file(PAGE, "model.ckpt")


def test_the_real_gdown_takes_these_arguments() -> None:
    gdown = pytest.importorskip("gdown")
    assert {"id", "output", "resume", "quiet"} <= set(inspect.signature(gdown.download).parameters)

"""Files are replaced as a whole or not at all, and what they name stays below their folder."""

import os
from pathlib import Path

import pytest

from minigpt4.common.cli import user_path
from minigpt4.common.errors import ConfigError
from minigpt4.common.files import inside, new_folder, open_regular, replacing, require_writable
from minigpt4.datasets.datasets.shard_list import is_remote


def test_replacing_keeps_the_old_file_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"half")
        assert path.read_bytes() == b"old"
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"


def test_replacing_leaves_nothing_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def draw() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "./", "..", "../a", "a/../b", "a/..", "/a", "//a", "/", None, 1, ["a"]),
        *("..\\a", "a\\..\\b", "\\a", "\\\\server\\share\\a", "C:a", "C:\\a", "c:/a", "C:"),
    ],
)
def test_no_name_from_a_file_leaves_its_folder(name, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is not the name of a file|leaves the folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["a", "a/b.jpg", "pipe:touch x; cat a", "http://x.org/a", "...", " ", "a\nb"]
)
def test_a_name_from_a_file_is_a_path_and_nothing_else(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert inside(".", name) == inside("", name) == tmp_path / name
    assert not is_remote(str(inside(".", name)))


def test_require_writable_names_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "fifo")
    for path in ("folder", "fifo", "file/a.json", "x" * 250 + ".json", "nul\0l"):
        with pytest.raises(ConfigError, match=r"^--out"):
            require_writable(tmp_path / path, "--out")
    require_writable(tmp_path / "file", "--out")
    require_writable(tmp_path / "new" / "a.json", "--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fifo", "file", "folder", "new"]
    assert (tmp_path / "file").read_text() == "kept" and list((tmp_path / "new").iterdir()) == []


def test_arguments_that_are_paths_have_home_and_variables_resolved(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("RUNS", "/scratch")
    for text, path in (
        ("~/a", "/home/me/a"),
        ("$RUNS/a", "/scratch/a"),
        ("a/~", "a/~"),
        ("$NOBODY/a", "$NOBODY/a"),
    ):
        assert user_path(text) == Path(path)


def test_open_regular_refuses_what_no_file_can_be_called() -> None:
    with pytest.raises(OSError, match=r"not the name"):
        open_regular("a\0b")


def test_new_folder_is_there_whole_or_not_at_all(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a") as folder:
        (folder / "one").write_text(str(1 // 0))
    assert list(tmp_path.iterdir()) == []
    with new_folder(tmp_path / "a") as folder:
        (folder / "one").write_text("1")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "one"]
    with pytest.raises(FileExistsError), new_folder(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

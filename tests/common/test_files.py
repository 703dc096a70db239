"""Files are replaced as a whole or not at all."""

from pathlib import Path

import pytest

from minigpt4.common.files import replacing


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

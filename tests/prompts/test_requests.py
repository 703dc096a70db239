"""A file of requests for captions."""

from pathlib import Path

import pytest

from minigpt4.common.errors import ConfigError
from minigpt4.prompts.requests import read_requests

IMAGE = "<Img><ImageHere></Img>"


def test_requests_are_the_lines_with_an_image(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(f"{IMAGE} What?\n\nno image\n{IMAGE} Wer ist da? é\n", encoding="utf-8")
    assert read_requests(str(tmp_path / "p.txt")) == [f"{IMAGE} What?", f"{IMAGE} Wer ist da? é"]
    assert read_requests("") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no image\n", "no line of"),
        (f"{IMAGE} What?".encode("utf-16"), r"could not be read \(UnicodeDecodeError"),
        (f"{IMAGE} {'a ' * 60_000}".encode(), "more than 100,000 characters"),
    ],
)
def test_a_file_that_holds_no_requests(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^model\.prompt_path: .*{said}"):
        read_requests(str(tmp_path / "p.txt"))

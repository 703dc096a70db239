"""dataset/convert_easy_vqa.py: from the package of easy-VQA to lines of our own format."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from dataset import convert_easy_vqa
from minigpt4.datasets.datasets.jsonl_format import check_line

ANSWERS = ("yes", "no", "red", "circle")
SPLITS = ("train", "val", "test")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in the published layout, to be found before the real one."""
    data = tmp_path / "site" / "easy_vqa" / "data"
    for split, count in (("train", 6), ("test", 2)):
        (data / split / "images").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (64, 64), (number, 0, 0)).save(data / split / "images" / f"{number}.png")
        questions = [[f"question {n}?", ANSWERS[n % 4], n // 2] for n in range(2 * count)]
        (data / split / "questions.json").write_text(json.dumps(questions))
    (data.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(data.parents[1]))
    monkeypatch.delitem(sys.modules, "easy_vqa", raising=False)
    monkeypatch.setattr(convert_easy_vqa, "VALIDATION", 2)
    return data


def convert(monkeypatch: pytest.MonkeyPatch, out: Path) -> dict[str, list[dict]]:
    monkeypatch.setattr(sys, "argv", ["convert_easy_vqa.py", "--out", str(out)])
    convert_easy_vqa.main()
    return {
        split: [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]
        for split in SPLITS
    }


def test_each_question_becomes_a_line_with_its_picture(package, tmp_path, monkeypatch) -> None:
    lines = convert(monkeypatch, tmp_path / "out")
    assert {split: len(own) for split, own in lines.items()} == {"train": 8, "val": 4, "test": 4}
    assert lines["train"][:3] == [
        {"image": "train/0.png", "question": "question 0?", "answer": "yes", "group": "yes_no"},
        {"image": "train/0.png", "question": "question 1?", "answer": "no", "group": "yes_no"},
        {"image": "train/1.png", "question": "question 2?", "answer": "red", "group": "which"},
    ]
    for own in lines.values():
        assert all(check_line(json.dumps(line).encode())[1] == [] for line in own)
    # The last two pictures of the published training split are kept from training.
    assert [line["image"] for line in lines["val"]] == ["train/4.png"] * 2 + ["train/5.png"] * 2
    assert (tmp_path / "out/test/1.png").read_bytes() == (package / "test/images/1.png").read_bytes()


def test_without_the_package_the_error_names_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(convert_easy_vqa.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as end:
        convert(monkeypatch, tmp_path / "out")
    assert "pip install '.[easy-vqa]'" in str(end.value.code)
    assert not (tmp_path / "out").exists()


def test_the_real_package_has_its_published_sizes(tmp_path, monkeypatch) -> None:
    pytest.importorskip("easy_vqa", reason="pip install '.[easy-vqa]'")
    lines = convert(monkeypatch, tmp_path / "out")
    assert {split: len(own) for split, own in lines.items()} == {"train": 38_334, "val": 241, "test": 9_673}
    pictures = {split: {line["image"] for line in own} for split, own in lines.items()}
    assert {split: len(own) for split, own in pictures.items()} == {"train": 3_975, "val": 25, "test": 1_000}
    assert not pictures["train"] & pictures["val"]
    answers = Counter(line["answer"] for line in lines["test"])
    assert len(answers) == 13 and answers["yes"] == 3_611 and answers["no"] == 3_525
    assert all((tmp_path / "out" / name).is_file() for own in pictures.values() for name in own)

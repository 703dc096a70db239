"""`minigpt4 reproduce`: what is missing is named, what is there is evaluated, on small copies of the data."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from minigpt4.commands import reproduce
from minigpt4.commands.reproduce import PLACES
from minigpt4.tasks.base_task import BaseTask
from tests.support.benchmarks import write_benchmarks
from tests.support.golden import golden_model_config

pytestmark = pytest.mark.integration


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of data, laid out as docs/evaluation.md says, and a config beside it."""
    folder = tmp_path / "data"
    sections = write_benchmarks(folder)
    (folder / "hm").rename(folder / "hateful_meme")
    for _, pictures in PLACES.values():
        shutil.copytree(folder / "pictures", folder / pictures, dirs_exist_ok=True)
    for number in range(3):
        name = f"{number:012d}.jpg"
        shutil.copy(folder / "pictures" / name, folder / "coco/val2014" / f"COCO_val2014_{name}")
        (folder / "coco/val2014" / name).unlink()
    vis = {"train": {"name": "blip2_image_eval", "image_size": 56}}
    content = {
        "model": golden_model_config(llm_sanity_check=False),
        "datasets": {"cc_sbu_align": {"vis_processor": vis}},
        "evaluation_datasets": {name: sections[name] for name in PLACES},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def run(monkeypatch, data: Path, *words) -> int:
    start = ["minigpt4 reproduce", "minigptv2", "--data", str(data)]
    monkeypatch.setattr("sys.argv", [*start, "--cfg-path", str(data.parent / "eval.yaml"), *map(str, words)])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    return end.value.code


def test_reproduce_evaluates_what_is_there_and_names_what_is_missing(data, monkeypatch, capsys) -> None:
    (data / "vizwiz/vizwiz_images/VizWiz_val_1.jpg").unlink()
    shutil.rmtree(data / "vsr")
    out = data.parent / "out"
    assert run(monkeypatch, data, "--out", out, "--limit", 2, "--device", "cpu") == 1
    said = capsys.readouterr()
    assert "missing: vizwiz: val: 1 of 3 pictures are missing in" in said.err
    assert "the first is VizWiz_val_1.jpg (from https://vizwiz.org" in said.err
    assert "missing: vsr: " in said.err and "test.jsonl does not exist" in said.err
    assert "val 3, testA 3, testB 3" in said.out and "present: " in said.out
    report = json.loads((out / "report.json").read_text())
    assert report["datasets"] == [name for name in PLACES if name not in ("vizwiz", "vsr")]
    assert report["published"]["okvqa_test_accuracy"] == 0.578
    assert set(report["controls"]) == {"others", "grey"}
    assert "| okvqa test accuracy |" in (out / "report.md").read_text()


def test_reproduce_check_builds_nothing(data, monkeypatch, capsys) -> None:
    monkeypatch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
    assert run(monkeypatch, data, "--check") == 0
    assert run(monkeypatch, data.parent / "data" / "nothing", "--cfg-path", data.parent / "eval.yaml") == 1
    said = capsys.readouterr().err
    assert all(f"missing: {name}: " in said for name in PLACES)


def test_reproduce_takes_the_tables_own_config(tmp_path, monkeypatch, capsys) -> None:
    """Without a YAML; its language model and its checkpoint must be set."""
    monkeypatch.setattr("sys.argv", ["minigpt4 reproduce", "minigptv2", "--data", str(tmp_path), "--check"])
    with pytest.raises(SystemExit) as end:
        reproduce.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert "missing: model.llama_model" in said and "missing: model.ckpt" in said and "missing: gqa" in said

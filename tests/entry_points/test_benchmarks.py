"""evaluate.py on the benchmarks of the original's evaluation YAML, on small copies of all of them."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from minigpt4.commands import evaluate
from minigpt4.tasks.base_task import BaseTask
from tests.support.benchmarks import write_benchmarks
from tests.support.golden import golden_model_config

PUBLISHED = {"okvqa": 0.578, "gqa": 0.601, "vsr": 0.629, "iconvqa": 0.515, "vizwiz": 0.536, "hm": 0.588}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    sections = write_benchmarks(folder)
    del sections["coco_caption"]
    vis = {"train": {"name": "blip2_image_eval", "image_size": 56}}
    content = {
        "model": golden_model_config(llm_sanity_check=False),
        "datasets": {"cc_sbu_align": {"vis_processor": vis}},
        "evaluation_datasets": sections,
        "run": {"task": "image_text_pretrain", "name": "evaluation", "save_path": "/path/to/save"},
    }
    (folder / "benchmark.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "benchmark.yaml"


def run(monkeypatch, config: Path, *words) -> str | int:
    argv = ["evaluate.py", "--cfg-path", str(config), "--device", "cpu", *map(str, words)]
    monkeypatch.setattr("sys.argv", argv)
    try:
        evaluate.main()
    except SystemExit as end:
        return end.code
    return 0


def test_all_benchmarks_are_evaluated_with_controls(config, tmp_path, monkeypatch, capsys) -> None:
    out = tmp_path / "report.json"
    assert run(monkeypatch, config, "--controls", "--out", out) == 0
    report = json.loads(out.read_text())
    names = [f"refcoco_{s}" for s in ("val", "testA", "testB")] + [
        f"refcoco+_{s}" for s in ("val", "testA", "testB")
    ]
    names += [
        "refcocog_val",
        "refcocog_test",
        "okvqa_test",
        "vizwiz_val",
        "iconvqa_val",
        "gqa_testdev",
        "vsr_test",
    ]
    assert {record["evaluation"] for record in report["records"]} == {*names, "hm_dev"}
    assert report["samples"] == len(report["records"]) == 14 * 3
    for name in (*names, "hm_dev"):
        own = [record["accuracy"] for record in report["records"] if record["evaluation"] == name]
        assert report[f"{name}_accuracy"] == pytest.approx(sum(own) / 3)
        low, high = report["intervals"][f"{name}_accuracy"]
        assert low <= report[f"{name}_accuracy"] <= high
        assert f"{name}_accuracy" in report["published"]
    for name, value in PUBLISHED.items():
        assert [v for key, v in report["published"].items() if key.startswith(f"{name}_")] == [value]
    assert report["published"]["refcoco+_testB_accuracy"] == 0.745
    assert set(report["controls"]) == {"others", "grey"}
    # All of IconQA's answers are the same here, so there is no wrong picture for any.
    assert "iconvqa_val_accuracy" in report["controls"]["grey"]
    assert "iconvqa_val_accuracy" not in report["controls"]["others"]
    assert report["controls"]["grey"]["gqa_testdev_yes"] is not None and "hm_dev_auc" in report
    table = (tmp_path / "report.md").read_text()
    assert "| okvqa test accuracy |" in table and "57.8%" in table and "grey pictures" in table
    assert "57.8%" in capsys.readouterr().out
    with Image.open(tmp_path / "report.png") as grid:
        assert min(grid.size) > 300


def test_one_benchmark_and_split_by_name(config, tmp_path, monkeypatch) -> None:
    out = tmp_path / "report.json"
    words = ("--dataset", "refcoco", "--split", "testB", "--limit", 2, "--out", out)
    assert run(monkeypatch, config, *words) == 0
    report = json.loads(out.read_text())
    assert [record["evaluation"] for record in report["records"]] == ["refcoco_testB"] * 2
    assert "controls" not in report and "skipped" not in report


def test_skipped_samples_are_listed(config, tmp_path, monkeypatch) -> None:
    """Also those that an evaluation met before it was killed."""
    picture = config.parent / "pictures/VizWiz_val_0.jpg"
    content = picture.read_bytes()
    picture.unlink()
    out = tmp_path / "report.json"
    words = ("--dataset", "vizwiz,gqa", "--batch-size", 1, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr("minigpt4.tasks.short_answer.ShortAnswerTask.score", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(patch, config, *words)
    try:
        assert run(monkeypatch, config, *words) == 0
    finally:
        picture.write_bytes(content)
    report = json.loads(out.read_text())
    assert report["skipped"] == [{"data": "vizwiz.val", "sample": "entry 0", "reason": "missing image"}]
    assert report["samples"] == 5
    assert "| skipped | 1 |" in (tmp_path / "report.md").read_text()


def test_a_killed_evaluation_goes_on(config, tmp_path, monkeypatch) -> None:
    """The second time, what was done is not done again."""
    from minigpt4.tasks.vqa import VqaTask

    out, words = tmp_path / "report.json", ("--dataset", "gqa,okvqa", "--batch-size", 2)
    done, score = [], VqaTask.score

    def killed(self, model, batch, records, predictions) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(len(batch))
        score(self, model, batch, records, predictions)

    with monkeypatch.context() as patch:
        patch.setattr(VqaTask, "score", killed)
        assert run(monkeypatch, config, *words, "--out", out) != 0
    assert not out.exists()
    asked, predict = [], BaseTask.predict

    def counted(self, model, batch, count):
        asked.append(type(self).__name__)
        return predict(self, model, batch, count)

    monkeypatch.setattr(BaseTask, "predict", counted)
    assert run(monkeypatch, config, *words, "--out", out) == 0
    went_on = json.loads(out.read_text())
    again = len(asked)
    assert run(monkeypatch, config, *words, "--out", tmp_path / "whole.json") == 0
    assert again < len(asked) - again
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert went_on == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "okvqq"], "--dataset: there is no 'okvqq'; did you mean 'okvqa'?"),
        (["--dataset", "okvqa", "--split", "val"], "evaluation_datasets.okvqa has no split 'val'"),
        (["--controls", "--batch-size", "1"], "--controls exchanges the pictures of a batch"),
    ],
)
def test_benchmarks_that_are_not_there_are_named(config, monkeypatch, words, message) -> None:
    monkeypatch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
    assert message in str(run(monkeypatch, config, *words))

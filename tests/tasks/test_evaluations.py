"""Data sets with tasks of their own: what is evaluated together, what it is called, and its curve."""

import json
from pathlib import Path

import pytest
import yaml

from minigpt4.commands import evaluate
from minigpt4.common.errors import ConfigError
from minigpt4.datasets.builders import JsonlBuilder
from minigpt4.tasks import ImageTextPretrainTask, ShortAnswerTask, VqaTask
from minigpt4.tasks.evaluations import plan, summarize
from minigpt4.tasks.records import Record
from tests.support.questions import write_config, write_questions
from tests.support.runs import load, train


def builder(**settings) -> JsonlBuilder:
    vis = {"train": {"name": "blip2_image_eval", "image_size": 56}}
    return JsonlBuilder.from_config("x", {"vis_processor": vis, "build_info": {"ann_path": "a"}} | settings)


def test_plan_pools_what_names_no_task() -> None:
    task = ImageTextPretrainTask()
    datasets = {
        "a": (builder(), {"train": None, "val": None}),
        "b": (builder(task="short_answer", max_new_tokens=4), {"val": None, "test": None}),
        "c": (builder(), {"val": None}),
        "d": (builder(max_new_tokens=9), {"test": None}),
    }
    planned = plan(datasets, ["val", "test"], task)
    assert [(one.name, one.parts) for one in planned] == [
        ("", (("a", "val"), ("c", "val"))),
        ("b_val", (("b", "val"),)),
        ("b_test", (("b", "test"),)),
        ("d_test", (("d", "test"),)),
    ]
    assert [one.task.max_new_tokens for one in planned] == [None, 4, 4, 9]
    kinds = [ImageTextPretrainTask, ShortAnswerTask, ShortAnswerTask, ImageTextPretrainTask]
    assert [type(one.task) for one in planned] == kinds and planned[0].task is task


def test_plan_evaluates_all_data_as_further_tasks() -> None:
    datasets = {
        "a": (builder(), {"val": None}),
        "b": (builder(task="short_answer"), {"val": None, "x": None}),
    }
    planned = plan(datasets, ["val"], ImageTextPretrainTask(), ["vqa", "minigpt4.tasks:ShortAnswerTask"])
    both = (("a", "val"), ("b", "val"))
    assert [(one.name, one.parts) for one in planned] == [
        *(("", both[:1]), ("b_val", both[1:]), ("vqa", both), ("ShortAnswerTask", both))
    ]
    assert [type(one.task) for one in planned[2:]] == [VqaTask, ShortAnswerTask]


def test_summarize_names_values_after_their_data_set() -> None:
    datasets = {"a": (builder(), {"val": None}), "b": (builder(task="vqa"), {"val": None})}
    planned = plan(datasets, ["val"], ImageTextPretrainTask())
    captions = [Record(image_id="1", truth="x", loss=2.0, tokens=3, scores={"exact_match": 0.0})]
    answers = [Record(image_id="1", truth="x", group="g", scores={"accuracy": 0.5})]
    metrics = summarize(planned, [captions, answers])
    assert metrics.values == {
        **{"loss": 2.0, "exact_match": 0.0, "b_val_accuracy": 0.5, "b_val_accuracy_g": 0.5}
    }
    assert (metrics.best, metrics.higher_is_better, metrics.curves) == ("loss", False, ("b_val_accuracy",))
    assert metrics.percentages == {"exact_match", "b_val_accuracy", "b_val_accuracy_g"}
    alone = summarize(planned[1:], [answers])
    assert (alone.best, alone.higher_is_better, alone.curves) == ("b_val_accuracy", True, ())


def test_a_task_that_is_not_known_is_named_early() -> None:
    with pytest.raises(ConfigError, match=r"datasets\.x\.task.*'vqq'.*did you mean 'vqa'"):
        builder(task="vqq")


@pytest.mark.integration
def test_validation_by_several_tasks_has_a_curve_each(tmp_path: Path, monkeypatch, undrawn) -> None:
    """The first decides; `evaluate.py` comes to the same numbers."""
    write_questions(tmp_path)
    path = write_config(tmp_path, "image_text_pretrain", max_epoch=1, iters_per_epoch=4, valid_tasks=["vqa"])
    content = yaml.safe_load(path.read_text())
    again = content["datasets"]["jsonl"] | {"builder": "jsonl", "task": "vqa", "max_new_tokens": 5}
    content["datasets"]["again"] = again
    path.write_text(yaml.safe_dump(content))
    report, _ = train(load(path))
    lines = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if "valid_loss" in line]
    assert line["valid_again_val_accuracy"] == report["again_val_accuracy"]
    assert 0 <= line["valid_vqa_accuracy"] <= 1 and "vqa_accuracy" not in report
    assert (report["best_metric"], report["samples"]) == ("loss", 8)
    options = [
        "--out",
        str(tmp_path / "out.json"),
        "--options",
        f"model.ckpt={tmp_path}/job/checkpoint_best.pth",
    ]
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--cfg-path", str(path), "--device", "cpu", *options])
    evaluate.main()
    again = json.loads((tmp_path / "out.json").read_text())
    names = [name for name in report["before"] if name != "samples"]
    assert {name: again[name] for name in names} == pytest.approx({name: report[name] for name in names})

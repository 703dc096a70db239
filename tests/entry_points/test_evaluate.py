"""evaluate.py: which samples, which task, which numbers, and what is refused before the work."""

import argparse
import io
import json
import shlex
import tarfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataset.shapes import make_align
from minigpt4.commands import evaluate
from minigpt4.common.errors import ConfigError, DataError
from minigpt4.runners.reporting.summary import next_commands
from minigpt4.tasks.base_task import BaseTask
from tests.support.caching import cache, config, draw_shards, load
from tests.support.golden import golden_model_config
from tests.support.jsonl import write
from tests.support.runs import train
from tests.support.shards import encoded, picture, sample, write_shard

METRICS = ("samples", "loss", "exact_match")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def on_shards(folder: Path) -> Path:
    """The YAML of a run on shards; the split `test` has six samples."""
    return config(folder / "shards.yaml", draw_shards(folder), golden_model_config(llm_sanity_check=False))


def evaluated(monkeypatch: pytest.MonkeyPatch, out: Path, *words: Any) -> dict[str, Any]:
    """What a command line leaves in `--out`."""
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, words), "--device", "cpu", "--out", str(out)])
    evaluate.main()
    return json.loads(out.read_text())


def refused(monkeypatch: pytest.MonkeyPatch, *words: Any) -> str:
    """The error of a command line, before a model is built."""
    monkeypatch.setattr(BaseTask, "build_model", lambda *_, **__: pytest.fail("a model is built"))
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        evaluate.main()
    return str(caught.value)


def test_evaluate_takes_the_splits_of_the_config(on_shards, tmp_path, monkeypatch) -> None:
    """`run.test_splits`; a split by name; shards; with and without limit: the same samples and numbers."""
    start = ("--cfg-path", on_shards)
    whole = evaluated(monkeypatch, tmp_path / "new" / "folder" / "a.json", *start)
    assert (whole["splits"], whole["samples"], whole["shuffled"]) == (["test"], 6, False)
    assert [record["image_id"] for record in whole["records"]] == [f"{n:09d}" for n in range(6)]
    tokens = sum(record["tokens"] for record in whole["records"])
    loss = sum(record["loss"] * record["tokens"] for record in whole["records"]) / tokens
    assert whole["loss"] == pytest.approx(loss, rel=1e-12)
    assert all(
        record["exact_match"] == (record["prediction"] == record["truth"]) for record in whole["records"]
    )
    assert whole["percentages"] == sorted(key for key in whole if key.startswith("exact_match"))

    named = evaluated(
        monkeypatch, tmp_path / "b.json", *start, "--split", "test", "--limit", 4, "--batch-size", 3
    )
    assert named["samples"] == 4
    for one, other in zip(named["records"], whole["records"], strict=False):
        assert one["prediction"] == other["prediction"] and one["loss"] == pytest.approx(
            other["loss"], rel=1e-5
        )

    pattern = f"{on_shards.parent}/test/{{00000..00000}}.tar"
    shards = evaluated(monkeypatch, tmp_path / "c.json", *start, "--shards", pattern)
    assert shards["shards"] == pattern and shards["records"] == whole["records"]
    trained = evaluated(monkeypatch, tmp_path / "d.json", *start, "--split", "train", "--limit", 5)
    assert trained["samples"] == 5 and trained["records"] != whole["records"][:5]


def test_evaluate_without_test_splits_takes_the_first_that_is_held_out(
    on_shards, tmp_path, monkeypatch
) -> None:
    options = ("--options", "run.test_splits=[]", "run.train_splits=[test]")
    report = evaluated(monkeypatch, tmp_path / "a.json", "--cfg-path", on_shards, "--limit", 2, *options)
    assert (report["splits"], report["samples"]) == (["train"], 2)


def test_evaluate_shuffled_exchanges_pictures(on_shards, tmp_path, monkeypatch) -> None:
    own = evaluated(monkeypatch, tmp_path / "a.json", "--cfg-path", on_shards)
    dealt = evaluated(
        monkeypatch, tmp_path / "b.json", "--cfg-path", on_shards, "--shuffled", "--batch-size", 2
    )
    assert dealt["shuffled"] is True
    assert [r["truth"] for r in dealt["records"]] == [r["truth"] for r in own["records"]]
    assert all(a["loss"] != b["loss"] for a, b in zip(dealt["records"], own["records"], strict=True))


def test_grey_pictures_are_no_control_where_answers_are_weighed_against_them(
    on_shards, tmp_path, monkeypatch
) -> None:
    jpegs = [encoded(picture(number, size=56)) for number in range(2)]
    meta = [{"caption": name, "candidates": ["a dog", "a cat"]} for name in ("a dog", "a cat")]
    files = [sample(name, jpeg, None, meta=one) for name, jpeg, one in zip("ab", jpegs, meta, strict=True)]
    shard = write_shard(tmp_path / "0.tar", chain(*files))
    for task, controls in (("choose", {"others", "grey"}), ("choose_by_gain", {"others"})):
        words = ("--cfg-path", on_shards, "--shards", shard, "--controls", "--options", f"run.task={task}")
        report = evaluated(monkeypatch, tmp_path / f"{task}.json", *words)
        assert report["samples"] == 2 and set(report["controls"]) == controls


def test_evaluate_shards_as_the_config_reads_shards(on_shards, tmp_path, monkeypatch) -> None:
    """With its caption key and its processors, and without `run.task`."""
    content = yaml.safe_load(on_shards.read_text())
    del content["run"]
    content["datasets"]["cc_sbu"]["build_info"] = {"storage": "/path/to/nothing", "caption_key": "alt"}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content))
    jpeg = encoded(picture(3, size=56))
    shard = write_shard(tmp_path / "0.tar", sample("a", jpeg, meta={"alt": "A Cat!", "caption": "a dog"}))
    report = evaluated(
        monkeypatch, tmp_path / "a.json", "--cfg-path", tmp_path / "eval.yaml", "--shards", shard
    )
    assert [record["truth"] for record in report["records"]] == ["a cat"]


def test_evaluate_shards_by_the_builder_and_the_task_of_the_config(on_shards, tmp_path, monkeypatch) -> None:
    content = yaml.safe_load(on_shards.read_text())
    section = content["datasets"].pop("cc_sbu") | {"builder": "tests.support.questions:QuestionShards"}
    content["datasets"] = {"questions": section | {"build_info": {"storage": "/path/to/nothing"}}}
    content["run"]["task"] = "short_answer"
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content))
    jpeg = encoded(picture(3, size=56))
    shard = write_shard(
        tmp_path / "0.tar", sample("a", jpeg, meta={"question": "Which?", "answer": "A cat."})
    )
    start = ("--cfg-path", tmp_path / "eval.yaml", "--shards", shard)
    report = evaluated(monkeypatch, tmp_path / "a.json", *start)
    (record,) = report["records"]
    assert (record["prompt"], record["truth"], record["accuracy"]) == ("Which?", "A cat.", report["accuracy"])
    assert "loss" not in report and report["percentages"] == ["accuracy"]


def kinds(folder: Path, shards: Path) -> dict[str, dict[str, Any]]:
    """A `datasets:` section of each kind, with the splits `train` and `test`."""
    make_align.write_folder(folder / "align" / "train", "train", 8, seed=1)
    make_align.write_folder(folder / "align" / "test", "test", 5, seed=1)
    lines = [
        {"image": "a.jpg", "caption": "A dog."},
        {"image": "b.jpg", "question": "What?", "answer": "a cat"},
    ]
    pairs = write(folder / "pairs.jsonl", *lines)
    storage = {split: str(folder / "align" / split) for split in ("train", "test")}
    return {
        "cc_sbu_align": {"build_info": {"storage": storage}},
        "jsonl": {"build_info": {"ann_path": {"train": str(pairs), "test": str(pairs)}}},
        "cached_features": {"build_info": {"storage": str(cache(shards, folder / "cache"))}},
    }


@pytest.mark.parametrize("kind", ["cc_sbu_align", "jsonl", "cached_features"])
def test_the_printed_command_comes_to_what_the_run_reported(on_shards, tmp_path, monkeypatch, kind) -> None:
    content = yaml.safe_load(on_shards.read_text())
    section = content["datasets"].pop("cc_sbu") | kinds(tmp_path, on_shards)[kind] | {"batch_size": 2}
    content["datasets"] = {kind: section}
    content["run"] |= {"output_dir": str(tmp_path / "job"), "max_epoch": 1, "amp": False}
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    report, runner = train(load(path))
    checkpoint = tmp_path / "job" / "checkpoint_latest.pth"
    command = next_commands(runner.cfg, runner.datasets, runner.settings, checkpoint)[1].split("\n  ")[1]
    _, script, *words = shlex.split(command)
    assert script == "evaluate" and words[words.index("--split") + 1] == "test"
    again = evaluated(monkeypatch, tmp_path / "a.json", *words)
    for name in METRICS:
        assert again[name] == pytest.approx(report[name], rel=1e-6)
    assert again["loss"] < report["before"]["loss"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit is 0, it must be at least 1"),
        (["--batch-size", "0"], "--batch-size is 0, it must be at least 1"),
        (["--shuffled", "--batch-size", "1"], "--batch-size must be at least 2"),
        (["--shuffled", "--limit", "1"], "--limit must be at least 2"),
        (["--split", "tset"], "no data set has a split 'tset'; did you mean 'test'? (there: train, test)"),
        (["--options", "run.test_splits=[val]"], "run.test_splits: no data set has a split 'val'"),
        (["--shuffled", "--options", "run.batch_size_eval=1"], "--batch-size must be at least 2"),
        (["--shards", "none.tar"], "--shards: no shard matches 'none.tar'"),
    ],
)
def test_evaluate_refuses_before_the_work(on_shards, monkeypatch, words, message) -> None:
    assert message in refused(monkeypatch, "--cfg-path", on_shards, *words)


def test_evaluate_checks_where_the_report_goes_before_the_work(on_shards, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("kept")
    for out, message in (
        (tmp_path, f"--out is {tmp_path}, which is a folder: please name a file in it"),
        (tmp_path / "file" / "a.json", f"--out: {tmp_path}/file/a.json cannot be written"),
    ):
        assert message in refused(monkeypatch, "--cfg-path", on_shards, "--out", out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_evaluate_keeps_names_that_are_not_utf8(on_shards, tmp_path, monkeypatch) -> None:
    """As old tools write them into tars: each sample keeps a name of its own."""
    jpeg, shard = encoded(picture(3, size=56)), tmp_path / "0.tar"
    with tarfile.open(shard, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name, data in {"é.jpg": jpeg, "é.txt": b"a dog", "è.jpg": jpeg, "è.txt": b"a cat"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    start = ("--cfg-path", on_shards, "--shards", shard)
    report = evaluated(monkeypatch, tmp_path / "a.json", *start)
    found = [(record["image_id"], record["truth"]) for record in report["records"]]
    assert found == [(r"\udce9", "a dog"), (r"\udce8", "a cat")]


def test_evaluate_needs_a_split_that_is_held_out(on_shards, monkeypatch) -> None:
    options = ("--options", "run.test_splits=[]", "run.train_splits=[train,test]")
    message = refused(monkeypatch, "--cfg-path", on_shards, *options)
    assert "no split is held out: please name one with --split (there: train, test)" in message


def test_evaluate_shuffled_needs_different_answers(on_shards, tmp_path, monkeypatch) -> None:
    jpeg = encoded(picture(3, size=56))
    shard = write_shard(tmp_path / "0.tar", [*sample("a", jpeg), *sample("b", jpeg)])
    args = argparse.Namespace(
        **{"cfg_path": on_shards, "options": [], "shards": shard, "split": None, "limit": None},
        **{"out": None, "shuffled": True, "batch_size": 2, "device": "cpu"},
        **{"controls": False, "dataset": None},
    )
    with pytest.raises(DataError, match="no batch has two different answers"):
        evaluate.evaluate(args)
    args.shuffled, args.batch_size = True, 1
    with pytest.raises(ConfigError):
        evaluate.evaluate(args)

"""Questions about colours, and all that a task must be able to do with them in one short run."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from minigpt4.commands import evaluate
from minigpt4.datasets.builders import WebdatasetBuilder
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.runners.checkpoints import BEST
from minigpt4.runners.reporting.reporter import report_table
from minigpt4.weights.checkpoint import read_checkpoint
from tests.support.runs import drawing_nothing, load, train

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 200, 0), "yellow": (250, 250, 0)}


class QuestionShards(WebdatasetBuilder):
    """Shards whose JSON holds a question and its answer."""

    def dialogue(self, raw: RawSample, rng: random.Random) -> Dialogue:
        return Dialogue.of([(f"<Img><ImageHere></Img> {raw.fields['question']}", raw.fields["answer"])])


def write_questions(folder: Path) -> None:
    """One picture and one question per colour; the answers' case and punctuation are not the model's."""
    lines = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (56, 56), colour).save(folder / f"{name}.png")
        group = "warm" if name in ("red", "yellow") else "cold"
        lines.append({"image": f"{name}.png", "question": "a square", "answer": name, "group": group})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for line in lines:
        line["answer"] = f"{line['answer'].title()}."
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_config(folder: Path, task: str, **run: Any) -> Path:
    files = {split: f"{folder}/{'train' if split == 'train' else 'test'}.jsonl" for split in ("train", "val")}
    settings = {
        **{"task": task, "max_epoch": 3, "iters_per_epoch": 15, "init_lr": 0.003, "log_freq": 15},
        **{"num_workers": 0, "device": "cpu", "amp": False, "output_dir": str(folder / "job")},
        **{"valid_splits": ["val"], "test_splits": ["val"]},
    }
    section = {
        "batch_size": 4,
        "build_info": {"ann_path": files},
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
    }
    content = {
        "model": {"arch": "minigpt4", "model_type": "tiny_gemma"},
        "datasets": {"jsonl": section},
        "run": settings | run,
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def check_task(folder: Path, task: str, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, validate and evaluate with a task that takes no loss, and whose best checkpoint has the most.

    Args:
        folder: where all of it is written.
        task: for `run.task`.
        metric: that decides; it is shown as %.
        monkeypatch: the test's.
    """
    write_questions(folder)
    path, job = write_config(folder, task), folder / "job"
    with drawing_nothing():
        report, _ = train(load(path))

    lines = [json.loads(line) for line in (job / "log.jsonl").read_text().splitlines()]
    taken = {line["step"]: line[f"valid_{metric}"] for line in lines if f"valid_{metric}" in line}
    assert list(taken) == [15, 30, 45] and "valid_loss" not in {key for line in lines for key in line}
    best = max(taken, key=taken.get)  # the first of several
    assert (report["best_metric"], report["best_step"]) == (metric, best)
    assert report[f"best_valid_{metric}"] == taken[best] == report[metric] > report["before"][metric]
    assert read_checkpoint(job / BEST)["step"] == best
    assert "loss" not in report and report["samples"] == 4
    row = [metric, f"{report['before'][metric]:.1%}", f"{report[metric]:.1%}"]
    assert row in [line.split() for line in report_table(report).splitlines()]
    assert (job / "samples" / "step_000015.png").exists() and (job / "samples.png").exists()

    options = ["--out", str(job / "out.json"), "--options", f"model.ckpt={job / BEST}"]
    monkeypatch.setattr("sys.argv", ["evaluate.py", "--cfg-path", str(path), "--device", "cpu", *options])
    evaluate.main()
    again = json.loads((job / "out.json").read_text())
    assert (again["splits"], again[metric]) == (["val"], taken[best])
    assert [record["truth"] for record in again["records"]] == ["Red.", "Blue.", "Green.", "Yellow."]
    assert all("loss" not in record for record in again["records"])
    with drawing_nothing():
        alone, _ = train(load(path, "run.evaluate=True", f"model.ckpt={job / BEST}"))
    assert alone == {"samples": 4} | {key: again[key] for key in alone if key != "samples"}

"""docs/your_domain.md on a drawn domain: table, JSONL, training from an export, export, chat."""

import csv
import json
import random
from argparse import Namespace
from pathlib import Path

import yaml

import minigpt4
from dataset.shapes.world import caption, draw, lay_out, sample_scene
from minigpt4.datasets.convert import convert
from minigpt4.export.__main__ import write
from tests.support.exports import export_tiny
from tests.support.runs import load, train


def write_table(folder: Path, split: str, count: int) -> Path:
    """Pictures of one thing each, and a table of their names and captions."""
    rng = random.Random(split)
    with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "title"])
        for number in range(count):
            scene = sample_scene(split, 1.0, rng)
            draw(scene, lay_out(scene, rng)).save(folder / f"{split}{number}.png")
            table.writerow([f"{split}{number}.png", caption(scene)])
    return folder / f"{split}.csv"


def test_a_domain_from_a_table_to_an_exported_assistant(tmp_path) -> None:
    files = {}
    for split, count in (("train", 32), ("test", 8)):
        files[split] = str(tmp_path / f"{split}.jsonl")
        table, columns = write_table(tmp_path, split, count), ["image=file", "caption=title"]
        convert(
            Namespace(
                source=table,
                out=Path(files[split]),
                columns=columns,
                format=None,
                answers=None,
                pictures=None,
            )
        )
    export_tiny("gemma", tmp_path / "general")
    (tmp_path / "phrasings.txt").write_text("What is this?\nDescribe the picture.\n")
    content = {
        "model": {"arch": "minigpt4", "model_type": str(tmp_path / "general")},
        "datasets": {
            "jsonl": {
                "batch_size": 8,
                "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
                "build_info": {"ann_path": files, "instructions": str(tmp_path / "phrasings.txt")},
            }
        },
        "run": {
            "task": "image_text_pretrain",
            "max_epoch": 1,
            "iters_per_epoch": 4,
            "init_lr": 1e-4,
            "num_workers": 0,
            "device": "cpu",
            "amp": False,
            "test_splits": ["test"],
            "output_dir": str(tmp_path / "run"),
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    report, _ = train(load(tmp_path / "mine.yaml"))
    assert report["samples"] == 8
    lines = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert sum(record["reply"] == record["truth"] for record in records) >= 6
    assert all((tmp_path / record["picture"]).is_file() for record in records)
    assert records[0]["picture"] in (tmp_path / "run/predictions.md").read_text(encoding="utf-8")

    ckpt = f"model.ckpt={tmp_path / 'run/checkpoint_latest.pth'}"
    assert write(load(tmp_path / "mine.yaml", ckpt), tmp_path / "mine", None) == "blip2"
    card = (tmp_path / "mine/README.md").read_text(encoding="utf-8")
    assert "Data: `jsonl`. Steps: 4" in card and "exact_match" in card
    model = minigpt4.load(tmp_path / "mine", "cpu")
    with (tmp_path / "test.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    said = [model.chat("What is this?", tmp_path / row["file"], temperature=0) for row in rows]
    assert sum(reply == row["title"] for reply, row in zip(said, rows, strict=True)) >= 6

"""Annotations in others' formats, which `minigpt4 convert-data` reads."""

import argparse
import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from minigpt4.common.errors import UserError
from minigpt4.datasets.convert import convert

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "a.jpg"}},
            {"type": "text", "text": "What?"},
        ],
    },
    {"role": "assistant", "content": "A dog."},
]
NAMES = {"llava.json": [], "coco.json": [], "table.csv": ["image=file"], "rows.parquet": []}


def write_foreign(folder: Path) -> None:
    (folder / "llava.json").write_text(json.dumps([{"image": "a.jpg", "conversations": TURNS}] * 3))
    captions = [{"id": n, "image_id": 3, "caption": f"Dog {n}."} for n in range(3)]
    coco = {"images": [{"id": 3, "file_name": "a.jpg"}], "annotations": captions}
    (folder / "coco.json").write_text(json.dumps(coco))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "caption"], ["a.jpg", "A dog."], ["b.jpg", "A cat."]])
    rows = [{"image": {"bytes": b"\xff\xd8", "path": None}, "caption": "A dog."}] * 2
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")


def read_foreign(folder: Path) -> None:
    """All of them; the first that cannot be used is raised at the end."""
    refused = None
    for name, columns in NAMES.items():
        arguments = {"format": None, "answers": None, "pictures": None, "columns": columns}
        out = folder / "out" / f"{name}.jsonl"
        out.unlink(missing_ok=True)
        try:
            convert(argparse.Namespace(source=folder / name, out=out, **arguments))
        except UserError as error:
            refused = refused or error
    if refused:
        raise refused

"""Shards, annotations, caches and questions."""

import argparse
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dataset.shapes.make_shards import write_split
from minigpt4.common.config import Config, load_yaml, plain
from minigpt4.common.registry import registry
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets import annotation_store
from minigpt4.datasets.validate import validate
from minigpt4.models.generation import GenerationSettings
from minigpt4.processors.blip_processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel
from minigpt4.serving.answers import answer
from minigpt4.serving.inputs import read_inputs
from minigpt4.tasks import setup_task
from tests.fuzz import foreign
from tests.support import benchmarks, jsonl, published
from tests.support.caching import cache as make_cache
from tests.support.caching import config as caching_config
from tests.support.golden import build_golden_model, golden_model_config
from tests.support.shards import encoded, picture, sample, write_shard

PROCESSORS = {
    "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
    "text_processor": {"train": {"name": "blip_caption"}},
}

DIGEST = bytes(32)


@cache
def golden() -> Any:
    """The model of recorded values; the processes that are forked off share it."""
    return build_golden_model().eval()


def train_on(builder: str, build_info: dict[str, Any], **more: Any) -> None:
    """Read a data set to its end, as an epoch would, and take a loss of every batch."""
    section = {"builder": builder, "batch_size": 2, "build_info": build_info, **PROCESSORS, **more}
    (_, splits) = build_datasets({"data": section})["data"]
    for stream in splits.values():
        for batch in BatchStream(stream, 2, max_bad_fraction=1.0):
            with torch.no_grad():
                golden()(batch)


def write_shards(folder: Path) -> None:
    pictures = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    for number in range(2):
        members = []
        for n, kind in enumerate(pictures[3 * number : 3 * number + 3]):
            suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
            meta = {"caption": f"Picture {n}.", "group": "a", "url": "http://x.org/a", "size": [8, 8]}
            members += sample(f"{n}", encoded(picture(n), kind), f"text {n}", suffix=suffix, meta=meta)
        write_shard(folder / f"{number:05d}.tar", members)
    (folder / "good.json").write_text(json.dumps({"samples": 6, "shards": {"00000.tar": 3, "00001.tar": 3}}))


def read_shards(folder: Path) -> None:
    train_on("cc_sbu", {"storage": "{00000..00001}.tar"})


def read_manifest(folder: Path) -> None:
    train_on("cc_sbu", {"storage": "good.json"})


def write_jsonl(folder: Path) -> None:
    jsonl.write(
        folder / "data.jsonl",
        jsonl.CAPTION,
        jsonl.QUESTION,
        {
            "image": ["a.jpg", "b.jpg"],
            "id": 7,
            "group": "x",
            "conversation": [{"user": "<image> and <image>?"}, {"assistant": "Dogs."}],
        },
        {"image": "a.jpg", "question": "Cat or dog?", "answer": "dog", "candidates": ["cat", "dog"]},
        {"image": "a.jpg", "conversations": foreign.TURNS},
        {"messages": foreign.MESSAGES},
    )


def read_jsonl(folder: Path) -> None:
    args = argparse.Namespace(file="data.jsonl", image_path=None, open_images=True, max_context_len=3800)
    with suppress(SystemExit):  # as it ends after bad lines, which training then refuses
        validate(args)
    train_on("jsonl", {"ann_path": "data.jsonl"})


def write_align(folder: Path) -> None:
    (folder / "image").mkdir()
    entries = [{"image_id": str(n), "caption": f"Picture {n}.", "group": "a"} for n in range(3)]
    for n in range(3):
        (folder / "image" / f"{n}.jpg").write_bytes(encoded(picture(n)))
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": entries}))


def read_align(folder: Path) -> None:
    train_on("cc_sbu_align", {"storage": "."})


def write_published(*names: str) -> Callable[[Path], None]:
    """Writes tiny copies of MiniGPT-v2's data sets."""

    def write(folder: Path) -> None:
        for name in names:
            published.write(name, folder)

    return write


def read_published(*names: str) -> Callable[[Path], None]:
    """Reads them by their YAMLs of defaults."""

    def read(folder: Path) -> None:
        os.environ["MINIGPT4_DATA"] = "."
        for name in names:
            (defaults,) = load_yaml(registry.get_builder_class(name).default_config_path()).datasets.values()
            train_on(name, plain(defaults.build_info))

    return read


def write_benchmarks(folder: Path) -> None:
    benchmarks.write_benchmarks(folder)


def read_benchmarks(folder: Path) -> None:
    for name, place in {"refcocog": ".", "okvqa": "okvqa", "gqa": "gqa", "hm": "hm/dev.jsonl"}.items():
        train_on("published", {"format": name, "eval_file_path": place, "img_path": "pictures"})


def write_stored_entries(folder: Path) -> None:
    with (folder / "a.json.entries").open("wb") as file:
        annotation_store.write(file, [{"id": n, "says": ["a", None, 0.5]} for n in range(5)], DIGEST)


def read_stored_entries(folder: Path) -> None:
    with suppress(OSError, ValueError):  # then it is written anew
        entries = annotation_store.StoredEntries.mapped(Path("a.json.entries"), DIGEST)
        for number in range(len(entries)):
            entries.entry(number)


def write_cache(folder: Path) -> None:
    write_split(folder / "shapes", "train", 4, seed=0, samples_per_shard=2)
    pattern = f"{folder}/shapes/{{00000..00001}}.tar"
    yaml_file = caching_config(folder / "pixels.yaml", pattern, golden_model_config())
    made = make_cache(yaml_file, folder / "made")
    for path in made.iterdir():
        shutil.move(path, folder / path.name)
    for name in ("shapes", "made"):
        shutil.rmtree(folder / name)
    yaml_file.unlink()


def read_cache(folder: Path) -> None:
    yaml_file = caching_config(folder / "c.yaml", Path("."), golden_model_config())
    cfg = Config(argparse.Namespace(cfg_path=yaml_file, options=[]))
    for _, splits in setup_task(cfg).build_datasets(cfg).values():
        for stream in splits.values():
            for batch in BatchStream(stream, 2, max_bad_fraction=1.0):
                with torch.no_grad():
                    golden()(batch)


def write_questions(folder: Path) -> None:
    lines = [
        {"image": "a.jpg", "question": "What?", "id": "x"},
        {"image": ["a.jpg", "b.jpg"]},
        {"question": "Who?"},
    ]
    jsonl.write(folder / "questions.jsonl", *lines)


def read_questions(folder: Path) -> None:
    model = ChatModel(golden(), Blip2ImageEvalProcessor(56))
    inputs = read_inputs(["questions.jsonl", "."], "What is this?")
    settings = GenerationSettings(temperature=0.0, max_new_tokens=2)
    json.dumps(list(answer(model, enumerate(inputs), 2, settings)))

"""What may be read from outside: for each, a valid tiny input, and the way by which it is read."""

import argparse
import json
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from dataset.shapes.make_shards import write_split
from minigpt4.commands.convert_captions import convert
from minigpt4.commands.train import train
from minigpt4.common import web
from minigpt4.common.config import Config
from minigpt4.common.logger import JsonLines
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.datasets import remote
from minigpt4.datasets.download.items import Item
from minigpt4.datasets.download.store import Store, fetch_pictures
from minigpt4.datasets.validate import validate
from minigpt4.models.generation import GenerationSettings
from minigpt4.processors.blip_processors import Blip2ImageEvalProcessor
from minigpt4.prompts.requests import read_requests
from minigpt4.prompts.sample import Batch
from minigpt4.runners.reporting import reporter
from minigpt4.runners.reporting.plots import draw_loss
from minigpt4.serving import ChatModel
from minigpt4.serving.answers import answer
from minigpt4.serving.inputs import read_inputs
from minigpt4.tasks import setup_task
from minigpt4.weights import download, fetch
from minigpt4.weights.checkpoint import save_checkpoint
from minigpt4.weights.resolver import read_tensors
from tests.support import GOLDEN, jsonl
from tests.support.caching import cache as make_cache
from tests.support.caching import config as caching_config
from tests.support.families import save_model
from tests.support.gguf import write_gguf
from tests.support.golden import build_golden_model, golden_model_config
from tests.support.raw_server import sending
from tests.support.runs import run_config
from tests.support.shards import JPEG, encoded, picture, sample, write_shard

PROCESSORS = {
    "vis_processor": {"train": {"name": "blip2_image_train", "image_size": 56}},
    "text_processor": {"train": {"name": "blip_caption"}},
}


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        write: a valid one into an empty folder.
        read: the folder, as a command would; raises a UserError for what cannot be used.
        seconds: that reading it takes, about.
        replaced: whether a device or a link may be in the place of a file; not in what is one's own.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    seconds: float = 0.1
    replaced: bool = True


@cache
def golden() -> Any:
    """The model of recorded values; the processes that are forked off share it."""
    return build_golden_model().eval()


def _train_on(builder: str, build_info: dict[str, Any]) -> None:
    """Read a data set to its end, as an epoch would, and take a loss of every batch."""
    section = {"builder": builder, "batch_size": 2, "build_info": build_info, **PROCESSORS}
    (_, splits) = build_datasets({"data": section})["data"]
    for stream in splits.values():
        for batch in BatchStream(stream, 2, max_bad_fraction=1.0):
            with torch.no_grad():
                golden()(batch)


# Data


def _write_shards(folder: Path) -> None:
    pictures = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    for number in range(2):
        members = []
        for n, kind in enumerate(pictures[3 * number : 3 * number + 3]):
            suffix = {"JPEG": "jpg", "TIFF": "tif"}.get(kind, kind.lower())
            meta = {"caption": f"Picture {n}.", "group": "a", "url": "http://x.org/a", "size": [8, 8]}
            members += sample(f"{n}", encoded(picture(n), kind), f"text {n}", suffix=suffix, meta=meta)
        write_shard(folder / f"{number:05d}.tar", members)
    (folder / "good.json").write_text(json.dumps({"samples": 6, "shards": {"00000.tar": 3, "00001.tar": 3}}))


def _read_shards(folder: Path) -> None:
    _train_on("cc_sbu", {"storage": "{00000..00001}.tar"})


def _read_manifest(folder: Path) -> None:
    _train_on("cc_sbu", {"storage": "good.json"})


def _write_jsonl(folder: Path) -> None:
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
    )


def _read_jsonl(folder: Path) -> None:
    args = argparse.Namespace(file="data.jsonl", image_path=None, open_images=True, max_context_len=3800)
    with suppress(SystemExit):  # as it ends after bad lines, which training then refuses
        validate(args)
    _train_on("jsonl", {"ann_path": "data.jsonl"})


def _write_align(folder: Path) -> None:
    (folder / "image").mkdir()
    entries = [{"image_id": str(n), "caption": f"Picture {n}.", "group": "a"} for n in range(3)]
    for n in range(3):
        (folder / "image" / f"{n}.jpg").write_bytes(encoded(picture(n)))
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": entries}))


def _read_align(folder: Path) -> None:
    _train_on("cc_sbu_align", {"storage": "."})


def _write_cache(folder: Path) -> None:
    write_split(folder / "shapes", "train", 4, seed=0, samples_per_shard=2)
    pattern = f"{folder}/shapes/{{00000..00001}}.tar"
    yaml_file = caching_config(folder / "pixels.yaml", pattern, golden_model_config())
    made = make_cache(yaml_file, folder / "made")
    for path in made.iterdir():
        shutil.move(path, folder / path.name)
    for name in ("shapes", "made"):
        shutil.rmtree(folder / name)
    yaml_file.unlink()


def _read_cache(folder: Path) -> None:
    yaml_file = caching_config(folder / "c.yaml", Path("."), golden_model_config())
    cfg = Config(argparse.Namespace(cfg_path=yaml_file, options=[]))
    for _, splits in setup_task(cfg).build_datasets(cfg).values():
        for stream in splits.values():
            for batch in BatchStream(stream, 2, max_bad_fraction=1.0):
                with torch.no_grad():
                    golden()(batch)


def _write_questions(folder: Path) -> None:
    lines = [
        {"image": "a.jpg", "question": "What?", "id": "x"},
        {"image": ["a.jpg", "b.jpg"]},
        {"question": "Who?"},
    ]
    jsonl.write(folder / "questions.jsonl", *lines)


def _read_questions(folder: Path) -> None:
    model = ChatModel(golden(), Blip2ImageEvalProcessor(56))
    inputs = read_inputs(["questions.jsonl", "."], "What is this?")
    settings = GenerationSettings(temperature=0.0, max_new_tokens=2)
    json.dumps(list(answer(model, enumerate(inputs), 2, settings)))


# Weights


def _write_checkpoint(folder: Path) -> None:
    model = golden()
    state = {"model": model.trainable_state_dict(), "meta": model.checkpoint_meta(), "epoch": 0, "step": 4}
    save_checkpoint(state, folder / "checkpoint.pth")
    shutil.copy(GOLDEN / "minigpt4_checkpoint.pth", folder / "original.pth")


def _read_checkpoint(folder: Path) -> None:
    for path in sorted(folder.glob("*.pth")):
        golden().load_checkpoint(path)


def _write_tensors(folder: Path) -> None:
    save_file({"a.weight": torch.ones(4, 4), "b": torch.zeros(3).half()}, folder / "model.safetensors")
    torch.save({"model": {"a": torch.ones(4)}}, folder / "old.pth", _use_new_zipfile_serialization=False)


def _read_tensors(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        read_tensors(path)
        read_tensors(path, mapped=True)


def _model_folder(family: str, **saved: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_model(folder, family)
        if saved:
            model = AutoModelForCausalLM.from_pretrained(folder)
            (folder / "model.safetensors").unlink()
            model.save_pretrained(folder, **saved)
        (folder / "evil.py").write_text("open('CANARY', 'w')\nclass Evil:\n    pass\n")

    return write


@torch.no_grad()
def _read_model(folder: Path) -> None:
    """Load it, and train and chat with it."""
    (path,) = list(folder.glob("*.gguf")) or [folder]
    model = build_golden_model(llama_model=str(path), ckpt=None).eval()
    image = torch.zeros(1, 3, 56, 56, dtype=torch.uint8)
    model(Batch.from_mapping({"image": image, "answer": ["a dog"]}))
    model.generate(image, ["<Img><ImageHere></Img> What?"], max_new_tokens=3)


def _write_gguf(folder: Path) -> None:
    write_gguf(folder / "tiny.gguf")


def _write_vision(folder: Path) -> None:
    for name in ("eva_vit.pth", "blip2_qformer.pth"):
        shutil.copy(GOLDEN / name, folder)


def _read_vision(folder: Path) -> None:
    build_golden_model(vit_weights="eva_vit.pth", q_former_model="blip2_qformer.pth")


# Runs


@cache
def _shapes(folder: Path) -> Path:
    write_split(folder / "train", "train", 16, seed=0, samples_per_shard=8)
    write_split(folder / "test", "test", 4, seed=0, samples_per_shard=4)
    return folder


def _train(output: Path, epochs: int) -> None:
    shapes = next(parent for parent in output.parents if (parent / "shapes").is_dir()) / "shapes"
    path = shapes / "run.yaml"
    args = argparse.Namespace(
        cfg_path=str(path), options=[f"run.output_dir={output}", f"run.max_epoch={epochs}"]
    )
    # Drawing would take most of the time.
    undrawn = dict.fromkeys(("draw_loss", "draw_samples"), _write_no_picture)
    with patch.multiple(reporter, **undrawn):
        train(argparse.Namespace(**vars(args), resume="auto"))


def _write_no_picture(_: Any, path: Path, *more: Any) -> None:
    path.write_bytes(b"a picture")


def _write_run(folder: Path) -> None:
    shapes = _shapes(folder.parent / "shapes")
    cfg = run_config(shapes, folder / "run", iters_per_epoch=2, max_epoch=1, log_freq=1)
    (shapes / "run.yaml").write_text(yaml.safe_dump(cfg.to_dict()))
    _train(folder / "run", 1)
    for path in list((folder / "run").glob("checkpoint_*.pth")):
        if path.name != "checkpoint_0.pth":
            path.unlink()


def _read_run(folder: Path) -> None:
    _train(folder / "run", 2)


def _write_log(folder: Path) -> None:
    log = JsonLines(folder / "log.jsonl")
    for step in range(1, 5):
        log.write(step=step, epoch=0, loss=1.0 / step, lr=0.1, grad_norm=1.0, bad={"broken image": 1})
    log.write(step=4, epoch=0, valid_loss=0.5)


def _read_log(folder: Path) -> None:
    log = JsonLines(folder / "log.jsonl")
    log.drop_after(3)
    draw_loss(log.read(), folder / "loss.png", 2)


def _write_yaml(folder: Path) -> None:
    _write_shards(folder)
    section = {"batch_size": 2, "build_info": {"storage": {"train": "{00000..00001}.tar"}}, **PROCESSORS}
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 1,
        "iters_per_epoch": 2,
        "output_dir": "output",
        "seed": 1,
    }
    model = {
        "arch": "minigpt4",
        "model_type": "tiny_gemma",
        "prompt_path": "",
        "max_txt_len": 32,
        "end_sym": "###",
    }
    content = {
        "model": model,
        "datasets": {"cc_sbu": section},
        "run": run | {"beta2": 0.9, "init_lr": 0.01, "amp": False},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    (folder / "good.json").unlink()


def _read_yaml(folder: Path) -> None:
    cfg = Config(argparse.Namespace(cfg_path="run.yaml", options=[]))
    cfg.run_settings()
    cfg.pretty_print()
    setup_task(cfg).build_datasets(cfg)
    for source in fetch.find_sources(cfg):
        fetch.examine(source, download=False)


def _write_prompts(folder: Path) -> None:
    (folder / "prompts.txt").write_text("<Img><ImageHere></Img> Describe it.\n<Img><ImageHere></Img> What?\n")


@torch.no_grad()
def _read_prompts(folder: Path) -> None:
    read_requests("prompts.txt")
    model = build_golden_model(prompt_path="prompts.txt")
    model(Batch.from_mapping({"image": torch.zeros(1, 3, 56, 56, dtype=torch.uint8), "answer": ["a dog"]}))


# Downloads


def _write_zip(folder: Path) -> None:
    store = Store(folder / "data")
    store.state.mkdir(parents=True)
    with zipfile.ZipFile(store.state / "images.zip", "w") as archive:
        for n in range(3):
            archive.writestr(f"train2014/{n}.jpg", JPEG)


def _read_zip(folder: Path) -> None:
    Store(folder / "data").fetch(
        Item("images", 0.1, "coco/images", ("http://127.0.0.1:9/a.zip",), strip="train2014/")
    )


def _write_list(folder: Path) -> None:
    entries = [{"url": f"http://x.org/{n}.jpg", "caption": f"Picture {n}."} for n in range(3)]
    (folder / "captions.json").write_text(json.dumps(entries))
    pictures = {f"B00{n}": {"imageURL": f"http://127.0.0.1:9/{n}.jpg", "title": "x"} for n in range(3)}
    (folder / "pictures.json").write_text(json.dumps(pictures))


def _read_captions(folder: Path) -> None:
    convert(folder / "captions.json", folder / "captions.tsv")


def _read_pictures(folder: Path) -> None:
    (folder / "out").mkdir()
    path = folder / "pictures.json"
    content = path.read_bytes() if path.is_file() else b""
    with sending(lambda _: [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]) as url:
        here = folder / "here.json"
        here.write_bytes(content.replace(b"http://127.0.0.1:9/", url.encode() + b"/"))
        fetch_pictures("covers", here, folder / "out")


def _write_answer(folder: Path) -> None:
    body = (write_shard(folder / "a.tar", [*sample("a"), *sample("b")]), (folder / "a.tar").read_bytes())[1]
    head = f'HTTP/1.1 200 OK\r\nContent-Type: x/y\r\nETag: "1"\r\nContent-Length: {len(body)}\r\n\r\n'
    (folder / "answer").write_bytes(head.encode() + body)
    (folder / "a.tar").unlink()


def _read_answer(folder: Path) -> None:
    web.TIMEOUT, web.SLOW_SECONDS = 2.0, 1.0
    remote.WAITS, download.WAITS = (0.0,), (0.0,)
    with (folder / "answer").open("rb") as file:
        content = file.read(10_000_000)
    with sending(lambda _: [content]) as url:
        _train_on("cc_sbu", {"storage": url})
        download.Download(url, folder / "file.pth", None, "model.ckpt").run()


TARGETS: dict[str, Target] = {
    "shards": Target(_write_shards, _read_shards, 0.3),
    "manifest": Target(_write_shards, _read_manifest, 0.2),
    "jsonl": Target(_write_jsonl, _read_jsonl, 0.2),
    "align": Target(_write_align, _read_align, 0.2),
    "cache": Target(_write_cache, _read_cache, 0.3),
    "questions": Target(_write_questions, _read_questions, 0.3),
    "checkpoint": Target(_write_checkpoint, _read_checkpoint),
    "tensors": Target(_write_tensors, _read_tensors),
    "llama": Target(_model_folder("llama"), _read_model, 1.0),
    "chatml": Target(_model_folder("qwen2"), _read_model, 1.0),
    "model-shards": Target(_model_folder("gemma", max_shard_size="50KB"), _read_model, 1.0),
    "vision": Target(_write_vision, _read_vision, 0.5),
    "gguf": Target(_write_gguf, _read_model, 1.0),
    "run": Target(_write_run, _read_run, 4.0, replaced=False),
    "log": Target(_write_log, _read_log, 0.5, replaced=False),
    "yaml": Target(_write_yaml, _read_yaml, 0.3),
    "prompts": Target(_write_prompts, _read_prompts, 0.5),
    "zip": Target(_write_zip, _read_zip),
    "captions": Target(_write_list, _read_captions),
    "pictures": Target(_write_list, _read_pictures),
    "answer": Target(_write_answer, _read_answer, 0.5, replaced=False),
}

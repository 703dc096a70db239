#!/usr/bin/env python
"""Stage 1 from pictures and from cached features: images per second in one run.

Makes shards of random pictures, caches their features with `minigpt4 cache-features`, and trains from
both, alternating, through the same runner. Two sizes: the embedded tiny model, and `small`, with random
weights (encoder 704 wide, 12 blocks, 224 pixels; Q-Former 768 wide, 12 layers, 32 queries; LLaMA 1024 wide,
8 layers, 32,000 words).

example:
  python -m benchmarks.cached_features --json output/cached_features.json
  python -m benchmarks.cached_features --sizes tiny --steps 8      # to try it
"""

import argparse
import json
import logging
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

PICTURES, SHARDS = 256, 4
SIZES = {"tiny": {"side": 56, "batch_size": 64}, "small": {"side": 224, "batch_size": 8}}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="both by default")
    parser.add_argument("--steps", type=int, default=16, help="measured steps per turn (16)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each (3)")
    parser.add_argument("--device", help="cuda, mps (untested) or cpu; the best one by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            figures[size] = measure(size, Path(folder), args)
            print(size, json.dumps(figures[size], indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(size: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Images per second from both: the median over the log lines of all turns."""
    from minigpt4.commands.cache_features import cache_features

    logging.disable(logging.INFO)
    write_pictures(folder, SIZES[size]["side"])
    model = {"arch": "minigpt4", "model_type": "tiny_llama"} if size == "tiny" else small_model(folder)
    sources = {"pixels": f"{folder}/pictures/{{00000..{SHARDS - 1:05d}}}.tar", "cache": f"{folder}/cache"}
    configs = {way: write_config(folder, size, way, storage, model) for way, storage in sources.items()}
    devices = [args.device] if args.device else None
    cache_features(
        argparse.Namespace(
            cfg_path=configs["pixels"], options=[], out=Path(sources["cache"]), devices=devices
        )
    )
    speeds: dict[str, list[float]] = {way: [] for way in configs}
    for turn in range(args.turns):
        for way, path in configs.items():
            speeds[way] += train(path, folder / f"{way}{turn}", args)
    rates = {way: round(statistics.median(values), 1) for way, values in speeds.items()}
    bytes_each = sum(p.stat().st_size for p in Path(sources["cache"]).rglob("*.tar")) / PICTURES
    return {
        "images_per_second": rates,
        "ratio": round(rates["cache"] / rates["pixels"], 2),
        "slowest_and_fastest": {way: [min(values), max(values)] for way, values in speeds.items()},
        "cache_bytes_per_image": round(bytes_each),
    }


def train(path: Path, output: Path, args: argparse.Namespace) -> list[float]:
    """Images per second of each group of four steps, after the first group."""
    from minigpt4.common.config import Config
    from minigpt4.common.registry import registry
    from minigpt4.tasks.base_task import setup_task

    options = [f"run.output_dir={output}", f"run.iters_per_epoch={args.steps + 4}"]
    options += [f"run.device={args.device}"] if args.device else []
    cfg = Config(argparse.Namespace(cfg_path=path, options=options))
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, device=args.device, datasets=datasets)
    runner = registry.get_runner_class("runner_base")(cfg=cfg, task=task, model=model, datasets=datasets)
    runner.train()
    lines = (output / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["images_per_second"] for line in lines][1:]


def write_config(folder: Path, size: str, way: str, storage: str, model: dict[str, Any]) -> Path:
    """The YAML of a short stage-1 run."""
    import yaml

    section = {
        "batch_size": SIZES[size]["batch_size"],
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZES[size]["side"]}},
        "text_processor": {"train": {"name": "blip_caption"}},
        "build_info": {"storage": storage},
    }
    run = {
        "task": "image_text_pretrain",
        "max_epoch": 1,
        "iters_per_epoch": 1,
        "init_lr": 1e-3,
        "log_freq": 4,
        "num_workers": 1,
        "output_dir": "",
    }
    name = "cc_sbu" if way == "pixels" else "cached_features"
    path = folder / f"{way}.yaml"
    path.write_text(yaml.safe_dump({"model": model, "datasets": {name: section}, "run": run}))
    return path


def write_pictures(folder: Path, side: int) -> None:
    """Random JPEGs with captions of 8 to 18 words that the tiny LLaMA's tokenizer knows."""
    import io
    import tarfile

    import numpy as np
    from PIL import Image

    (folder / "pictures").mkdir()
    words = ["a", "red", "green", "blue", "small", "large", "star", "circle", "and", "above"]
    rng, pixels = random.Random(0), np.random.default_rng(0)
    for shard in range(SHARDS):
        with tarfile.open(folder / "pictures" / f"{shard:05d}.tar", "w") as tar:
            for number in range(PICTURES // SHARDS):
                buffer = io.BytesIO()
                coarse = Image.fromarray(pixels.integers(0, 256, (8, 8, 3), dtype=np.uint8))
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG")
                caption = " ".join(rng.choices(words, k=rng.randint(8, 18)))
                for suffix, data in (("jpg", buffer.getvalue()), ("txt", caption.encode())):
                    info = tarfile.TarInfo(f"{shard:04d}{number:05d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def small_model(folder: Path) -> dict[str, Any]:
    """Random weights in the layout of the published files, and the `model:` section that names them."""
    import shutil

    import torch
    from transformers import LlamaForCausalLM

    from benchmarks.random_model import SIZES as MODELS
    from minigpt4.models.encoders.eva_clip_g import EvaClipG
    from minigpt4.models.qformer import build_qformer, to_original_key

    size = MODELS["small"]
    torch.manual_seed(0)
    torch.save(EvaClipG("eva_clip_g", 224, **size.vit).module.state_dict(), folder / "vit.pth")
    width = size.vit_sizes["embed_dim"]
    qformer, queries = build_qformer(32, width)
    tensors = {to_original_key(f"Qformer.{name}"): p.detach() for name, p in qformer.named_parameters()}
    norm = {"ln_vision.weight": torch.ones(width), "ln_vision.bias": torch.zeros(width)}
    torch.save({"model": tensors | norm | {"query_tokens": queries.detach()}}, folder / "blip2.pth")
    shutil.copytree(ROOT / "minigpt4" / "assets" / "tiny" / "llama", folder / "llama")
    LlamaForCausalLM(size.llm).bfloat16().save_pretrained(folder / "llama")
    return {
        "arch": "minigpt4",
        "model_type": "pretrain_vicuna0",
        "vit_weights": str(folder / "vit.pth"),
        "vit_kwargs": size.vit,
        "q_former_model": str(folder / "blip2.pth"),
        "llama_model": str(folder / "llama"),
        "llm_sanity_check": False,
        "prompt_path": "",
    }


if __name__ == "__main__":
    main()

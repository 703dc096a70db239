#!/usr/bin/env python
"""Stage 1 from pictures and from cached features: images a second in one run, and estimates for real sizes.

Makes shards of random pictures, caches their features with `minigpt4 cache-features`, and trains from
either, in turns, through the same runner. Two sizes: the embedded tiny model, and `small`, with random
weights (encoder 704 wide, 12 blocks, 224 pixels; Q-Former 768 wide, 12 layers, 32 queries; LLaMA 1024 wide,
8 layers, 32,000 words). Then says on paper what the ratio is for EVA-ViT-g with Gemma-2B, and what disk
CC3M + CC12M + SBU take. What it prints under `estimate` was not measured.

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

# Peak of dense bf16 products in FLOP/s, from NVIDIA's data sheets, and the share of it that is assumed to be
# reached. The share cancels out of the ratio.
CARDS = {"A10G": 70e12, "H100 SXM": 989e12}
REACHED, BATCH = 0.45, 32
# Pairs as published; some links are dead.
PAIRS = {"CC3M": 3_318_333, "CC12M": 12_423_374, "SBU": 1_000_000}


def main() -> None:
    """Measure, estimate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="both by default")
    parser.add_argument("--steps", type=int, default=16, help="measured steps a turn (16)")
    parser.add_argument("--turns", type=int, default=3, help="turns from each (3)")
    parser.add_argument("--device", help="cuda, mps or cpu; the best there is by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            figures[size] = measure(size, Path(folder), args)
            print(size, json.dumps(figures[size], indent=2))
    figures["estimate"] = estimate()
    print("estimate", json.dumps(figures["estimate"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(size: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Images a second from either: the median over all turns' log lines."""
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
    """Images a second of each stretch of four steps, after the first stretch."""
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
    from minigpt4.models.qformer import build_qformer, to_original_key
    from minigpt4.models.vision import _eva_clip_g

    size = MODELS["small"]
    torch.manual_seed(0)
    torch.save(_eva_clip_g(224, 0.0, size.vit).state_dict(), folder / "vit.pth")
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


def estimate() -> dict[str, Any]:
    """EVA-ViT-g and Q-Former with Gemma-2B, from counted FLOPs and bytes."""
    from benchmarks.floors import by_part, step_products
    from benchmarks.random_model import SIZES as MODELS

    # BOS, the picture and 18 tokens of caption.
    products = step_products(MODELS["real"], BATCH, 1 + 32 + 18, BATCH * 18)
    parts = by_part(products, lambda p: p.flops // BATCH)
    looking = 1e9 * (parts["encoder"] + parts["Q-Former"])
    language = 1e9 * sum(parts.values()) - looking
    weights = [p for p in products if p.part in ("encoder", "Q-Former") and p.batch == 1]
    sample = {"bytes": 32 * 768 * 2, "in_shard": tar_bytes(32 * 768 * 2)}
    pairs = sum(PAIRS.values())
    cards = {}
    for name, peak in CARDS.items():
        cards[name] = {
            "images_per_second_pixels": round(REACHED * peak / (looking + language), 1),
            "images_per_second_cache": round(REACHED * peak / language, 1),
            "milliseconds_a_step_from_cache": round(1e3 * BATCH * language / (REACHED * peak)),
            "megabytes_per_second_from_cache": round(REACHED * peak / language * sample["in_shard"] / 1e6, 1),
            "images_per_second_caching": round(REACHED * peak / looking, 1),
            "hours_to_cache_all": round(pairs / (REACHED * peak / looking) / 3600, 1),
        }
    return {
        "gigaflops_an_image": {part: round(count, 1) for part, count in parts.items()},
        "ratio": round((looking + language) / language, 2),
        "assumed_share_of_peak": REACHED,
        "cards": cards,
        "gpu_memory_saved_gb": round(sum(2 * p.k * p.n * p.times for p in weights) / 1e9, 1),
        "cache": sample | {"pairs": pairs, "terabytes": round(pairs * sample["in_shard"] / 1e12, 2)},
    }


def tar_bytes(features: int) -> int:
    """A sample in a shard: features and caption, each behind a header and filled up to blocks of 512."""
    safetensors = 8 + 80 + features  # the length of the header, the header
    return 512 + -(-safetensors // 512) * 512 + 512 + 512


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""One training step on random weights, alternating with one computed as in the original: stage 1, or (v2)
MiniGPT-v2's, with 448 pixels and LoRA.

Ours is the engine's: prepare, forward, backward, clip, fused AdamW; from pixels, and from cached features.
The baseline (benchmarks/original_step.py) computes in float32 on a CPU and in float16 under autocast on a
GPU, with eager attention, logits at all positions and a float32 copy of them, float32 batches, and waits for
its loss. Peak memory is measured for each in a process of its own.

example:
  python -m benchmarks.train_step --size small --json output/train_step.json
  python -m benchmarks.train_step --size v2 --json output/train_step_v2.json
  python -m benchmarks.train_step --size real --profile output/profile.txt
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from benchmarks.floors import Products
    from minigpt4.prompts.encoder import TokenBatch

Step = Callable[[], Any]
GB = 1e9
WARM_UP = 3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=("small", "real", "real-llama", "v2"), required=True)
    parser.add_argument("--batch", type=int, help="images per step; the size's own by default")
    parser.add_argument("--turns", type=int, default=5, help="turns of each (5)")
    parser.add_argument("--device", help="cuda or cpu; the best one by default")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-baseline", action="store_true", help="leave the original's step out")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="write the profiler's table here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    parser.add_argument("--peak-of", choices=("pixels", "baseline"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        print(peak_memory(args))
        return
    figures = measure(args)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All numbers of a size."""
    import torch

    from benchmarks.floors import step_products
    from benchmarks.random_model import SIZES
    from minigpt4.common.device import pick_device

    device, size = pick_device(args.device), SIZES[args.size]
    images = args.batch or size.batch
    ways = ("pixels", "cached") if args.no_baseline else ("pixels", "cached", "baseline")
    peaks = {way: peak_in_new_process(way) for way in ways if way != "cached"}
    steps, tokens = build_steps(ways, args, device)
    products = step_products(size, images, tokens.ids.shape[1], tokens.targets)
    all_rates, alone = take_turns(steps, products, args, device)
    rates = {way: statistics.median(turns) for way, turns in all_rates.items()}
    on_gpu = device.type == "cuda"
    figures = {
        "size": args.size,
        "device": torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads",
        "torch": torch.__version__,
        "compiled": args.compile,
        "batch": images,
        "images_per_second": rates["pixels"],
        "cached_images_per_second": rates["cached"],
        "peak_memory_gb": peaks["pixels"],
    }
    if not args.no_baseline:
        figures["baseline_images_per_second"] = rates["baseline"]
        figures["baseline_peak_memory_gb"] = peaks["baseline"]
        # The original has no cache: both are compared with its step from pixels.
        figures["speedup"] = rates["pixels"] / rates["baseline"]
        figures["cached_speedup"] = rates["cached"] / rates["baseline"]
    figures |= floors(products, alone, images, tokens, all_rates)
    if args.profile:
        write_profile(steps["pixels"], args.profile, device)
    return rounded(figures)


def build_steps(
    ways: tuple[str, ...], args: argparse.Namespace, device: "torch.device"
) -> tuple[dict[str, Step], "TokenBatch"]:
    """A step for each way (`pixels` and `cached` share a model), and the tokens of their first batch."""
    from benchmarks.original_step import normalised, original_keys, original_step
    from benchmarks.random_model import SIZES, build, random_batches
    from minigpt4.common.registry import registry
    from minigpt4.runners.engine import Engine
    from minigpt4.runners.settings import RunSettings

    size, steps = SIZES[args.size], {}
    images = args.batch or size.batch
    with tempfile.TemporaryDirectory() as folder:
        if "pixels" in ways:
            model = build(size, Path(folder) / "ours", device, compile=args.compile, vit_precision="bf16")
            task = registry.get_task_class("image_text_pretrain")()
            settings = RunSettings(
                task="image_text_pretrain",
                max_epoch=1,
                iters_per_epoch=1_000_000,
                init_lr=1e-4,
                output_dir="",
                device=str(device),
            )
            engine = Engine(settings, task, model.train())
            for way in ("pixels", "cached"):
                steps[way] = engine_step(engine, random_batches(images, size, cached=way == "cached"))
        if "baseline" in ways:
            model = build(size, Path(folder) / "original", device, **original_keys(device)).train()
            steps["baseline"] = original_step(model, normalised(random_batches(images, size)))
    return steps, model.prepare(next(random_batches(images, size))).tokens


def engine_step(engine: Any, batches: Any) -> Step:
    """An update as in the runner: the previous result is read while this one is computed."""
    from minigpt4.runners.engine import Requests
    from minigpt4.runners.micro_batches import draw_micro_batches

    drawn = draw_micro_batches(batches, engine.bare_model.prepare, repeat(1), engine.device)
    pending = []

    def step() -> None:
        pending.append(engine.update(next(drawn), 1, Requests()))
        if len(pending) > 1:
            pending.pop(0).result()

    return step


def take_turns(
    steps: dict[str, Step], products: list["Products"], args: argparse.Namespace, device: "torch.device"
) -> tuple[dict[str, list[float]], dict["Products", float]]:
    """Measure the steps and their products in turns, so that a busy machine slows down all alike.

    Returns:
        Images per second of each way, turn by turn, and the fastest seconds of each product alone.
    """
    import torch

    from benchmarks.floors import seconds_of
    from benchmarks.random_model import SIZES

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    together = 10 if device.type == "cuda" else 1
    rates: dict[str, list[float]] = {way: [] for way in steps}
    alone = dict.fromkeys(products, math.inf)
    for turn in range(-1, args.turns):
        for way, step in steps.items():
            count = together if turn >= 0 else WARM_UP
            wait()
            start = time.perf_counter()
            for _ in range(count):
                step()
            wait()
            if turn >= 0:
                images = count * (args.batch or SIZES[args.size].batch)
                rates[way].append(images / (time.perf_counter() - start))
        for product in products:
            alone[product] = min(alone[product], seconds_of(product, device))
    return rates, alone


def floors(
    products: list["Products"],
    alone: dict["Products", float],
    images: int,
    tokens: "TokenBatch",
    all_rates: dict[str, list[float]],
) -> dict[str, Any]:
    """The products of a step and how long they take alone, compared with what was measured.

    Args:
        products: of a step.
        alone: the fastest seconds of each.
        images: of a batch.
        tokens: of a batch.
        all_rates: images per second of each way, turn by turn. The fastest turn is what the fastest products
            are compared with.
    """
    from benchmarks.floors import by_part, seconds_at_ceiling

    read = tokens.attention_mask.sum().item()
    reading = [product for product in products if product.part not in ("encoder", "Q-Former")]
    whole, cached = seconds_at_ceiling(products, alone), seconds_at_ceiling(reading, alone)
    return {
        "tokens_per_second": statistics.median(all_rates["pixels"]) * read / images,
        "cached_tokens_per_second": statistics.median(all_rates["cached"]) * read / images,
        "gigaflops_per_sample": by_part(products, lambda p: p.flops // images),
        "gigabytes_per_step": by_part(products, lambda p: p.bytes),
        "floor_seconds_per_step": whole,
        "cached_floor_seconds_per_step": cached,
        "ceiling_teraflops": sum(p.flops for p in products) / whole / 1e12,
        "matmul_fraction": whole * max(all_rates["pixels"]) / images,
        "cached_matmul_fraction": cached * max(all_rates["cached"]) / images,
    }


def peak_in_new_process(way: str) -> float:
    """Run this command again just for the peak memory of one of them, in GB."""
    again = [sys.executable, "-m", "benchmarks.train_step", *sys.argv[1:], "--peak-of", way]
    done = subprocess.run(again, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak_memory(args: argparse.Namespace) -> float:
    """Peak memory of some steps in GB: allocated on a GPU, else resident, libraries included."""
    import torch

    from minigpt4.common.device import pick_device

    device = pick_device(args.device)
    steps, _ = build_steps((args.peak_of,), args, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    for _ in range(WARM_UP):
        steps[args.peak_of]()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GB
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024 / GB


def write_profile(step: Step, path: Path, device: "torch.device") -> None:
    """Where the time of three steps goes, by operation."""
    from torch.profiler import profile

    with profile() as seen:
        for _ in range(3):
            step()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    table = seen.key_averages().table(sort_by=order, row_limit=40, max_name_column_width=70)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table + os.linesep)


def rounded(value: Any) -> Any:
    """Floats rounded to four digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""How much time and memory the published encoder and Q-Former take to load at their real sizes.

Writes random weights in the layout and dtype of the published files (EVA-ViT-g in float16, BLIP-2's file in
float32 with its text half), loads them through the model's own loader in a fresh process, and runs one
picture. The baseline, in another fresh process, does what the original did: it builds the encoder in
float32, reads the file, copies, and casts.

example:
  python benchmarks/load_weights.py --json output/load_weights.json
  python benchmarks/load_weights.py --depth 2      # small, to try it
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GB = 1e9


def main() -> None:
    """Write the files, measure both ways, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=39, help="blocks of the encoder (39)")
    parser.add_argument("--device", default="cpu", help="where the weights go (cpu)")
    parser.add_argument("--json", metavar="FILE", help="write the numbers here")
    parser.add_argument("--ours-only", action="store_true", help="leave the baseline out")
    parser.add_argument("--measure", choices=("ours", "baseline"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measured = {"ours": load_ours, "baseline": load_baseline}[args.measure]
        print(json.dumps(measure(measured, args.folder, args.depth, args.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures: dict[str, Any] = write_files(Path(folder), args.depth)
        for way in ("ours",) if args.ours_only else ("baseline", "ours"):
            again = [
                "--measure",
                way,
                "--folder",
                folder,
                "--depth",
                str(args.depth),
                "--device",
                args.device,
            ]
            done = subprocess.run(
                [sys.executable, __file__, *again], stdout=subprocess.PIPE, text=True, check=True
            )
            figures[way] = json.loads(done.stdout.splitlines()[-1])
    for name, value in figures.items():
        print(f"{name:10} {value}")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + "\n")


def write_files(folder: Path, depth: int) -> dict[str, float]:
    """Random weights under the published names, shapes and dtypes -> the files' sizes in GB."""
    import torch
    from accelerate import init_empty_weights

    from minigpt4.models.encoders.eva_clip_g import EvaClipG
    from minigpt4.models.qformer import build_qformer, to_original_key

    torch.manual_seed(0)
    noise = torch.randn(1 << 20) * 0.02

    def random(shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        # The same million numbers, repeated: drawing a billion would take longer than loading them.
        count = shape.numel()
        return noise.to(dtype).repeat(count // len(noise) + 1)[:count].reshape(shape).clone()

    with init_empty_weights(include_buffers=False):
        encoder = EvaClipG("eva_clip_g", 224, depth=depth).module
        qformer, queries = build_qformer(32, 1408)
    eva = {name: random(p.shape, torch.float16) for name, p in encoder.named_parameters()}
    torch.save(eva, folder / "eva_vit_g.pth")
    shapes = {to_original_key(f"Qformer.{name}"): p.shape for name, p in qformer.named_parameters()}
    for key in [key for key in shapes if "_query." in key]:
        shapes[key.replace("_query.", ".")] = shapes[key]  # the text half's feed-forward layers
    shapes["Qformer.bert.embeddings.word_embeddings.weight"] = torch.Size((30523, 768))
    shapes["Qformer.bert.embeddings.position_embeddings.weight"] = torch.Size((512, 768))
    shapes |= {"query_tokens": queries.shape, "t5_proj.weight": torch.Size((4096, 768))}
    shapes |= {"ln_vision.weight": torch.Size((1408,)), "ln_vision.bias": torch.Size((1408,))}
    blip2 = {name: random(shape, torch.float32) for name, shape in shapes.items()}
    torch.save({"model": blip2}, folder / "blip2.pth")
    return {
        "encoder_file_gb": (folder / "eva_vit_g.pth").stat().st_size / GB,
        "blip2_file_gb": (folder / "blip2.pth").stat().st_size / GB,
    }


def measure(load: Callable, folder: Path, depth: int, device: str) -> dict[str, float]:
    """Time, and the peak of memory that is not a view of a file, beyond what the imports take."""
    import torch

    import minigpt4.models.minigpt4  # noqa: F401  (imports are not what is measured)

    before, peak, done = anonymous_gb(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, anonymous_gb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    modules, look = load(folder, depth, device)
    seconds = time.perf_counter() - started
    done.set()
    watcher.join()
    with torch.no_grad():
        started = time.perf_counter()
        tokens = look(torch.zeros(1, 3, 224, 224, device=device))
        forward = time.perf_counter() - started
    weights = {p for module in modules for p in module.parameters()}
    return {
        "seconds": round(seconds, 2),
        "peak_gb": round(peak - before, 2),
        "weights_gb": round(sum(p.numel() * p.element_size() for p in weights) / GB, 2),
        "parameters": sum(p.numel() for p in weights),
        "dtype": str(next(modules[0].parameters()).dtype),
        "first_picture_seconds": round(forward, 2),
        "tokens": list(tokens.shape),
    }


def load_ours(folder: Path, depth: int, device: str) -> tuple[list, Callable]:
    """The whole model as a YAML builds it, around the tiny LLaMA."""
    from minigpt4.models.minigpt4 import MiniGPT4

    config = {
        "arch": "minigpt4",
        "vit_weights": str(folder / "eva_vit_g.pth"),
        "vit_kwargs": {"depth": depth},
        "q_former_model": str(folder / "blip2.pth"),
        "llama_model": str(ROOT / "minigpt4/assets/tiny/llama"),
        "llm_sanity_check": False,
    }
    model = MiniGPT4.from_config(config, device=device)
    return [model.visual_encoder, model.Qformer], lambda image: model.encode_img(image)[0]


def load_baseline(folder: Path, depth: int, device: str) -> tuple[list, Callable]:
    """Build in float32, read the file, copy, cast: two copies at the peak."""
    import torch

    from minigpt4.models.encoders.eva_clip_g import EvaClipG
    from minigpt4.models.qformer import build_qformer, to_tower_key

    encoder = EvaClipG("eva_clip_g", 224, depth=depth)
    tensors = torch.load(folder / "eva_vit_g.pth", map_location="cpu", weights_only=True)
    encoder.module.load_state_dict(tensors, strict=False)
    qformer, queries = build_qformer(32, 1408)
    blip2 = torch.load(folder / "blip2.pth", map_location="cpu", weights_only=True)["model"]
    blip2 = {to_tower_key(key).removeprefix("bridge.Qformer."): value for key, value in blip2.items()}
    qformer.load_state_dict(blip2, strict=False)
    dtype = torch.bfloat16 if device == "cpu" else torch.float16
    encoder.to(device, dtype).eval()
    qformer.to(device, dtype).eval()

    def look(image: torch.Tensor) -> torch.Tensor:
        vision = encoder(image.to(dtype))
        query = queries.to(device, dtype)
        return qformer(query_embeds=query, encoder_hidden_states=vision).last_hidden_state

    return [encoder, qformer], look


def anonymous_gb() -> float:
    """Memory of this process that is not backed by a file (Linux)."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024 / GB


if __name__ == "__main__":
    main()

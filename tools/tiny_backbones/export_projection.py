"""Keeps of a run's checkpoint what a chat needs: what was trained, and beside which parts.

python -m tools.tiny_backbones.export_projection output/minigpt4_tiny_gemma_stage2/checkpoint_latest.pth \\
    minigpt4/assets/tiny/gemma_projection.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def main() -> None:
    """Reads one file, writes the other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bf16", action="store_true", help="half the size, three digits")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    kept = {key: checkpoint[key] for key in ("model", "meta")}
    if args.bf16:
        kept["model"] = {key: tensor.bfloat16() for key, tensor in kept["model"].items()}
    torch.save(kept, args.out)


if __name__ == "__main__":
    main()

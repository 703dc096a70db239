"""Pictures of a run: its loss curve, and a grid of what it said."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

RIGHT, WRONG = "#1a7f37", "#b42318"


def draw_loss(records: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw loss and learning rate over steps.

    Args:
        records: dicts with `step`, `loss` and `lr`, as the runner logs them.
        path: a PNG file.
    """
    steps = [r["step"] for r in records]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.plot(steps, [r["loss"] for r in records], color="#2563eb", label="training loss")
    axis.set(xlabel="step", ylabel="loss per token (nats)", yscale="log")
    axis.grid(alpha=0.3)
    rate = axis.twinx()
    rate.plot(steps, [r["lr"] for r in records], color="#9ca3af", linestyle="--", label="learning rate")
    rate.set_ylabel("learning rate")
    handles = [line for a in (axis, rate) for line in a.get_lines()]
    axis.legend(handles=handles, loc="upper right")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_samples(samples: Sequence[dict[str, Any]], path: str | Path, columns: int = 4) -> None:
    """Draw a grid of pictures with what the model said and what was true.

    Args:
        samples: dicts with `image` (uint8 array [H, W, 3]), `caption`, `truth`, `exact_match`.
        path: a PNG file.
    """
    rows = -(-len(samples) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, 3.4 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, sample in zip(axes.flat, samples, strict=False):
        axis.imshow(np.asarray(sample["image"]))
        title = f"{_wrapped('said', sample['caption'])}\n{_wrapped('true', sample['truth'])}"
        colour = RIGHT if sample["exact_match"] else WRONG
        # An untrained model says anything, `$` signs that would be taken for formulas too.
        axis.set_title(title, fontsize=8, color=colour, loc="left", parse_math=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_histograms(histograms: Mapping[str, Mapping[int, int]], path: str | Path) -> None:
    """Draw histograms side by side.

    Args:
        histograms: what is counted -> how often each value occurs.
        path: a PNG file.
    """
    figure, axes = plt.subplots(
        1, len(histograms), figsize=(4 * len(histograms), 3), layout="constrained", squeeze=False
    )
    for axis, (title, values) in zip(axes.flat, histograms.items(), strict=True):
        axis.hist(list(values), weights=list(values.values()), bins=40, color="#2563eb")
        axis.set(xlabel=title, ylabel="samples")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _wrapped(label: str, text: str) -> str:
    """A caption in a few short lines of printable characters."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "\n".join(textwrap.wrap(f"{label}: {printable}", 34, max_lines=3))

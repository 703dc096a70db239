"""Pictures of a run: its loss curve, and a grid of what it said."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter

from minigpt4.common.files import replacing

RIGHT, WRONG = "#1a7f37", "#b42318"
TRAINED, HELD_OUT, RATE = "#2563eb", "#d97706", "#9ca3af"
# Losses below are drawn here: a logarithmic axis has no 0, and 1e-9 would squeeze all that matters.
SMALLEST_LOSS = 1e-4
# Fewer points than these are marked.
MARKED = 50


def draw_loss(records: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Draw loss and learning rate over steps, and the loss of held-out data where it was taken.

    Args:
        records: dicts with `step`, `loss` and `lr`, or with `step` and `valid_loss`, as the runner logs them.
        path: a PNG file, replaced as a whole.
    """
    trained = [r for r in records if "loss" in r]
    held_out = [r for r in records if "valid_loss" in r]
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.set(xlabel="step", ylabel="loss per token (nats)", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.yaxis.set_major_formatter(_PlainNumbers())
    axis.yaxis.set_minor_formatter(_PlainNumbers())
    rate = axis.twinx()
    rate.set_ylabel("learning rate")
    # The axis that was made last is drawn on top: the losses shall be.
    axis.set_zorder(rate.get_zorder() + 1)
    axis.patch.set_visible(False)

    steps = [r["step"] for r in trained]
    marker = "." if len(steps) < MARKED else ""  # without, a single point is nothing
    losses = _losses(trained, "loss")
    lines = axis.plot(steps, losses, color=TRAINED, linewidth=1.2, marker=marker, label="training loss")
    if held_out:
        lines += _plot_held_out(axis, held_out)
    lines += rate.plot(steps, [r["lr"] for r in trained], color=RATE, linestyle="--", label="learning rate")
    axis.legend(handles=lines, loc="upper right")
    _save(figure, path, dpi=120)


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
    _save(figure, path, dpi=110)


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
    _save(figure, path, dpi=110)


def _wrapped(label: str, text: str) -> str:
    """A caption in a few short lines of printable characters."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "\n".join(textwrap.wrap(f"{label}: {printable}", 34, max_lines=3))


class _PlainNumbers(LogFormatter):
    """Labels a logarithmic axis with 3 and 0.5, not with 3e+00 and 5e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        # Where the ticks are close, the parent leaves most of them empty.
        return f"{x:g}" if super().__call__(x, pos) else ""


def _plot_held_out(axis: Axes, records: Sequence[dict[str, Any]]) -> list[Line2D]:
    """Marked points, the lowest with its value. Returns the curve, for the legend."""
    steps, losses = [r["step"] for r in records], _losses(records, "valid_loss")
    lines = axis.plot(steps, losses, color=HELD_OUT, marker="o", markersize=3, label="validation loss")
    if np.isfinite(losses).any():
        best = int(np.nanargmin(losses))
        label = f"lowest: {records[best]['valid_loss']:.4g} at step {steps[best]:,}"
        lines += axis.plot(
            steps[best], losses[best], color=HELD_OUT, marker="*", markersize=12, linestyle="", label=label
        )
    return lines


def _losses(records: Sequence[dict[str, Any]], key: str) -> np.ndarray:
    """Losses as a logarithmic axis can show them; NaN, a gap, where one is missing or not finite."""
    losses = np.array([np.nan if r[key] is None else r[key] for r in records], dtype=float)
    return np.where(np.isfinite(losses), np.maximum(losses, SMALLEST_LOSS), np.nan)


def _save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write the PNG whole: it may be looked at, or the run killed, while it is redrawn."""
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=dpi, format="png")
    finally:
        plt.close(figure)

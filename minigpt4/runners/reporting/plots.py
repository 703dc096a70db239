"""Pictures of a run: its curves, and a grid of samples with what the model said."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from minigpt4.processors.boxes import draw_boxes, parse_boxes
from minigpt4.tasks.records import Record

RIGHT, WRONG, UNKNOWN = "#1a7f37", "#b42318", "#374151"
TRUE_BOX, SAID_BOX = (22, 163, 74), (220, 38, 38)
TRAINED, HELD_OUT, RATE = "#2563eb", "#d97706", "#9ca3af"
# A logarithmic axis has no 0: smaller losses are drawn at SMALLEST_LOSS, or at the least above ROUNDING.
SMALLEST_LOSS, ROUNDING = 1e-4, 1e-7
# Height of a line above a picture, in inches.
LINE = 0.17
# Fewer points than these are marked; of more, the mean over a SMOOTHED-th of them is drawn as well.
MARKED, SMOOTHED = 50, 10


def draw_loss(records: Sequence[dict[str, Any]], path: str | Path, title: str, best_step: int = 0) -> None:
    """Draw loss and learning rate over steps, and what validations came to.

    A loss of held-out data shares the axis of the training loss; any other metric has one of its own below.
    Many training losses are drawn pale, with their running mean.

    Args:
        records: dicts with `step`, `loss` and `lr`, or with `step` and `valid_<metric>`, as the runner logs
            them.
        path: a PNG file, replaced as a whole.
        title: of the figure.
        best_step: after which the best validation was taken; it is marked. 0 for none.
    """
    trained = [r for r in records if "loss" in r and "lr" in r]
    validations = _validations(records)
    apart = [one for one in validations if one.metric != "loss"]
    figure, axes = plt.subplots(
        1 + len(apart), figsize=(7, 4 + 2 * len(apart)), layout="constrained", squeeze=False, sharex=True
    )
    figure.suptitle(title, fontsize=11, parse_math=False)
    losses, *others = axes[:, 0]
    losses.set(ylabel="loss per token (nats)", yscale="log")
    losses.grid(alpha=0.3, which="both")
    losses.yaxis.set_major_formatter(_PlainNumbers())
    losses.yaxis.set_minor_formatter(_PlainNumbers())
    rate = losses.twinx()
    rate.set_ylabel("learning rate")
    # The axis that was made last is drawn on top, which should be that of the losses.
    losses.set_zorder(rate.get_zorder() + 1)
    losses.patch.set_visible(False)

    steps = [r["step"] for r in trained]
    many = len(steps) >= MARKED
    values = _for_log_axis([r["loss"] for r in trained])
    lines = losses.plot(
        steps,
        values,
        color=TRAINED,
        alpha=0.3 if many else 1,
        linewidth=1.2,
        marker="" if many else ".",  # a single point makes no line
        label="training loss" + _raised(trained),
    )
    if many:
        window = len(steps) // SMOOTHED
        label = f"mean of {window} training losses"
        lines += losses.plot(steps, _running_mean(values, window), color=TRAINED, linewidth=1.6, label=label)
    for one in validations:
        if one.metric == "loss":
            lines += one.plot(losses, _for_log_axis(one.values), best_step)
    rates = [_number(r["lr"]) for r in trained]
    lines += rate.plot(steps, rates, color=RATE, linestyle="--", label="learning rate")
    losses.legend(handles=lines, loc="upper right")
    for axis, one in zip(others, apart, strict=True):
        axis.set(ylabel=one.metric.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend(handles=one.plot(axis, np.array(one.values), best_step), loc="lower right")
    axes[-1, 0].set(xlabel="step")
    _save(figure, path, dpi=120)


def draw_samples(records: Sequence[Record], path: str | Path, columns: int = 4) -> None:
    """Draw a grid of pictures with what the model said and what is true.

    Where the prediction is right the text is green, where it is wrong it is red. Boxes in the truth are drawn
    in green, those in the prediction in red.

    Args:
        records: each with a `picture`.
        path: a PNG file.
        columns: of the grid.
    """
    titles = [_title(record) for record in records]
    rows = -(-len(records) // columns)
    shapes = [np.asarray(record.picture).shape for record in records]
    # A cell is 3 inches wide; in a grid of wide pictures it is lower than that.
    tallest = max(min(1.0, height / width) for height, width, *_ in shapes)
    height = 3 * tallest + LINE * max(title.count("\n") + 1 for title in titles)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3 * columns, height * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, record, title in zip(axes.flat, records, titles, strict=False):
        axis.imshow(_with_boxes(record))
        axis.set_anchor("S")  # what room is left belongs to the title
        colour = UNKNOWN if record.right is None else RIGHT if record.right else WRONG
        # An untrained model says anything, including `$`, which would begin a formula.
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


def _with_boxes(record: Record) -> np.ndarray:
    """The picture with the boxes of the truth and of the prediction."""
    texts = ((record.truth, TRUE_BOX), (record.prediction or "", SAID_BOX))
    boxes = [(box, "", colour) for text, colour in texts for box in parse_boxes(text)]
    picture = np.asarray(record.picture)
    return draw_boxes(picture, boxes) if boxes else picture


def _title(record: Record) -> str:
    texts = {"asked": record.prompt, "said": record.prediction, "true": record.truth}
    return "\n".join(_wrapped(label, text) for label, text in texts.items() if text is not None)


def _wrapped(label: str, text: str) -> str:
    """A text in a few short lines of printable characters."""
    printable = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return "\n".join(textwrap.wrap(f"{label}: {printable}", 34, max_lines=3))


class _PlainNumbers(LogFormatter):
    """Labels a logarithmic axis with 3 and 0.5, not with 3e+00 and 5e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        # Where the ticks are close, the parent leaves most of them empty.
        return f"{x:g}" if super().__call__(x, pos) else ""


@dataclass
class _Validation:
    """A metric of held-out data: after which steps it was taken, and what it was (NaN: not finite)."""

    metric: str
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def plot(self, axis: Axes, drawn: np.ndarray, best_step: int) -> list[Line2D]:
        """Draw marked points, and the best with its value. Returns the lines, for the legend."""
        label = f"validation {self.metric.replace('_', ' ')}"
        lines = axis.plot(self.steps, drawn, color=HELD_OUT, marker="o", markersize=3, label=label)
        if best_step in self.steps:
            best = self.steps.index(best_step)
            label = f"best: {self.values[best]:.4g} at step {best_step:,}"
            star = {"color": HELD_OUT, "marker": "*", "markersize": 12, "linestyle": ""}
            lines += axis.plot(best_step, drawn[best], label=label, **star)
        return lines


def _validations(records: Sequence[dict[str, Any]]) -> list[_Validation]:
    """What validations came to, by metric."""
    found: dict[str, _Validation] = {}
    for record in records:
        for key, value in record.items():
            if key.startswith("valid_"):
                metric = key.removeprefix("valid_")
                one = found.setdefault(metric, _Validation(metric))
                one.steps.append(record["step"])
                one.values.append(_number(value))
    return list(found.values())


def _number(value: Any) -> float:
    """What can be drawn of a value; NaN, a gap, where it is missing, not finite, or no number at all."""
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else np.nan


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of each value with those before and after it, as many as are in the window and finite."""
    finite = np.isfinite(values)
    ones = np.ones(window)
    count = np.convolve(finite, ones, mode="same")
    total = np.convolve(np.where(finite, values, 0), ones, mode="same")
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _raised(trained: Sequence[dict[str, Any]]) -> str:
    """What the legend says where `_for_log_axis` draws losses higher than they are."""
    losses = np.array([_number(record["loss"]) for record in trained])
    drawn = _for_log_axis([record["loss"] for record in trained])
    return f" (below {drawn.min():.2g}: drawn there)" if (drawn > losses).any() else ""


def _for_log_axis(values: Sequence[Any]) -> np.ndarray:
    """Losses as a logarithmic axis can show them."""
    losses = np.array([_number(value) for value in values])
    above = losses[losses > ROUNDING]
    return np.maximum(losses, min(SMALLEST_LOSS, *above) if above.size else SMALLEST_LOSS)


def draw_bars(
    names: Sequence[str], panels: Mapping[str, Mapping[str, Sequence[float | None]]], path: Path
) -> None:
    """Draw panels of horizontal bars side by side, a bar for each name and kind.

    Args:
        names: from the top to the bottom.
        panels: what a panel shows -> kind of bar -> a value per name, None for no bar. Several kinds have a
            legend.
        path: a PNG file, replaced as a whole.
    """
    width, height = 2.9 * len(panels) + 1, 0.55 * len(names) + 1.4
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, height), layout="constrained", squeeze=False, sharey=True
    )
    handles: dict[str, Any] = {}
    for axis, (label, kinds) in zip(axes[0], panels.items(), strict=True):
        thick = 0.8 / len(kinds)
        for number, (kind, values) in enumerate(kinds.items()):
            places = [place + thick * (number - (len(kinds) - 1) / 2) for place in range(len(names))]
            colour = (TRAINED, HELD_OUT)[number] if len(kinds) > 1 else RATE
            bars = axis.barh(places, [value or 0 for value in values], 0.9 * thick, color=colour)
            axis.bar_label(bars, ["" if v is None else f"{v:.3g}" for v in values], padding=3, fontsize=8)
            if len(kinds) > 1:
                handles[kind] = bars
        axis.set(title=label, yticks=range(len(names)), yticklabels=names)
        axis.title.set_fontsize(9)
        axis.margins(x=0.22)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    if handles:
        figure.legend(handles.values(), handles, loc="outside lower left", ncols=len(handles), frameon=False)
    _save(figure, path, dpi=120)


def _save(figure: Figure, path: str | Path, dpi: int) -> None:
    """Write the PNG whole: it may be looked at, or the run killed, while it is redrawn."""
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=dpi, format="png")
    finally:
        plt.close(figure)

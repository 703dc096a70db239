"""What a sweep came to: a table in Markdown, the same as JSON, and a plot."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError, reading
from minigpt4.common.formatting import format_bytes, format_duration, format_markdown, format_table
from minigpt4.common.logger import write_json
from minigpt4.tasks.controls import OTHERS
from minigpt4.tasks.records import RESERVED, format_metric

log = logging.getLogger("sweep")


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder, which is that of the language model.
        metrics: on held-out data.
        others: the same with the pictures of other samples.
        percentages: which of the metrics are shares.
        intervals: of 95 %, by metric.
        bits_per_byte: of the held-out answers, ends included: unlike a loss per token, comparable between
            tokenizers. None without losses.
        seconds: of training.
        images: trained on.
        memory: bytes at the peak of training; None if unknown.
    """

    name: str
    metrics: dict[str, float]
    others: dict[str, float]
    percentages: list[str]
    intervals: dict[str, list[float]]
    bits_per_byte: float | None
    seconds: float
    images: int
    memory: int | None

    @property
    def scores(self) -> list[str]:
        """The shares that are shown: not those of single groups."""
        names = self.percentages
        return [name for name in names if not any(name.startswith(f"{other}_") for other in names)]


def read_runs(folder: Path) -> list[Run]:
    """The finished runs of a sweep, by name. Raises DataError for a damaged report."""
    files = sorted(folder.glob("*/evaluation.json"))
    folders = [file.parent for file in files if (file.parent / "report.json").exists()]
    runs = []
    for one in folders:
        with reading(one, DataError, failed="the reports in {} cannot be used"):
            runs.append(_read_run(one))
    return runs


def _read_run(folder: Path) -> Run:
    evaluation, report = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("evaluation.json", "report.json")
    )
    return Run(
        name=folder.name,
        metrics=_metrics(evaluation),
        others=_metrics(evaluation.get("controls", {}).get(OTHERS, {})),
        percentages=evaluation["percentages"],
        intervals=evaluation["intervals"],
        bits_per_byte=_bits_per_byte(evaluation["records"]),
        seconds=report["train_seconds"],
        images=report["images"],
        memory=report.get("peak_memory"),
    )


def _metrics(content: dict[str, Any]) -> dict[str, float]:
    return {key: value for key, value in content.items() if key not in RESERVED}


def _bits_per_byte(records: Sequence[dict[str, Any]]) -> float | None:
    scored = [record for record in records if "loss" in record]
    size = sum(len(record["truth"].encode()) for record in scored)
    nats = sum(record["loss"] * record["tokens"] for record in scored)
    return nats / math.log(2) / size if size else None


def write_report(runs: Sequence[Run], folder: Path) -> None:
    """Write sweep.json, sweep.md and sweep.png, and print the table."""
    rows = table(runs)
    write_json(folder / "sweep.json", {"runs": [vars(run) for run in runs]})
    (folder / "sweep.md").write_text(format_markdown(rows, range(1, len(rows[0]))), encoding="utf-8")
    draw(runs, folder / "sweep.png")
    log.info("wrote sweep.md, sweep.json and sweep.png to %s", folder)
    print(format_table(rows, right=range(1, len(rows[0]))))


def table(runs: Sequence[Run]) -> list[list[str]]:
    """A row per run, and a first one that says what stands where."""
    scores = _scores(runs)
    heading = ["language model", "bits per byte", "loss per token", "others' pictures"]
    heading += [cell for name in scores for cell in (name.replace("_", " "), "others' pictures")]
    rows = [[*heading, "training", "images/s", "peak memory"]]
    for run in runs:
        row = [
            run.name,
            *map(format_metric, (run.bits_per_byte, run.metrics.get("loss"), run.others.get("loss"))),
        ]
        for name in scores:
            row += [format_metric(found.get(name), True) for found in (run.metrics, run.others)]
        speed = f"{run.images / run.seconds:,.1f}" if run.seconds else ""
        memory = "" if run.memory is None else format_bytes(run.memory)
        rows.append([*row, format_duration(run.seconds), speed, memory])
    return rows


def _scores(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.scores))


def draw(runs: Sequence[Run], path: Path) -> None:
    """Bars for each run: loss and scores beside those with others' pictures, time and memory.

    Args:
        runs: from the top to the bottom.
        path: a PNG file.
    """
    from minigpt4.runners.reporting.plots import draw_bars

    labels = {"loss": ("loss per token (nats)", 1)}
    labels |= {name: (f"{name.replace('_', ' ')} (%)", 100) for name in _scores(runs)}
    panels: dict[str, dict[str, list[float | None]]] = {}
    for name, (label, factor) in labels.items():
        if any(name in run.metrics for run in runs):
            panels[label] = {
                "their own pictures": [_times(factor, run.metrics.get(name)) for run in runs],
                "the pictures of others": [_times(factor, run.others.get(name)) for run in runs],
            }
    panels["bits per byte"] = {"": [run.bits_per_byte for run in runs]}
    panels["training (minutes)"] = {"": [run.seconds / 60 for run in runs]}
    panels["peak memory (GB)"] = {"": [_times(1e-9, run.memory) for run in runs]}
    draw_bars([run.name for run in runs], panels, path)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value

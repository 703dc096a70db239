"""What a run leaves behind for people: `report.json`, two pictures and a table."""

import logging
from pathlib import Path
from typing import Any

from minigpt4.common.logger import write_json
from minigpt4.common.plots import draw_loss, draw_samples

log = logging.getLogger(__name__)


def write_report(
    folder: Path, report: dict[str, Any], history: list[dict[str, Any]], records: list[dict[str, Any]]
) -> None:
    """Write `report.json`, `loss.png` and, where something was captioned, `samples.png`.

    Args:
        folder: the run's output folder.
        report: metrics after training, and under `before` the same before it.
        history: the log's records.
        records: the evaluation's; those with an `image` are drawn.
    """
    write_json(folder / "report.json", report)
    draw_loss(history, folder / "loss.png")
    drawn = [record for record in records if "image" in record]
    if drawn:
        draw_samples(drawn, folder / "samples.png")
    log.info("wrote report.json, loss.png%s to %s", " and samples.png" if drawn else "", folder)


def report_table(report: dict[str, Any]) -> str:
    """The metrics before and after training, a line each."""
    before = report.get("before") or {}
    names = [name for name in before if name != "samples"]
    lines = [f"{'held-out pictures':32} {'before':>10} {'after':>10}"]
    for name in names:
        lines.append(f"{name.replace('_', ' '):32} {_cell(name, before)} {_cell(name, report)}")
    lines.append(f"{'trainable parameters':32} {'':>10} {report['trainable_parameters']:>10,}")
    lines.append(f"{'training time':32} {'':>10} {report['train_seconds']:>8.0f} s")
    return "\n".join(lines)


def _cell(name: str, metrics: dict[str, Any]) -> str:
    value = metrics[name]
    return f"{value:>10.1%}" if name.startswith("exact_match") else f"{value:>10.3f}"

"""What an evaluation comes to: one table for people, Markdown, JSON, and a grid of pictures."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.formatting import format_markdown, format_table
from minigpt4.common.logger import write_json
from minigpt4.runners.reporting.predictions import write_predictions
from minigpt4.runners.reporting.samples import draw_shown, to_show
from minigpt4.tasks.controls import BACKWARDS, GREY, MIXED, OTHERS
from minigpt4.tasks.evaluations import Evaluation, intervals, summarize
from minigpt4.tasks.records import Metrics, Record, format_metric

log = logging.getLogger("evaluate")

# Gives records of an evaluation, by number, their pictures.
Pictures = Callable[[Evaluation, Mapping[int, Record]], None]
UNMIXED = ": no batch has two different answers to exchange the pictures of"
HEADINGS = {
    **{"": "value", OTHERS: "others' pictures", GREY: "grey pictures"},
    **{BACKWARDS: "frames backwards", MIXED: "frames mixed"},
}


@dataclass(frozen=True)
class Results:
    """All records of an evaluation.

    Attributes:
        evaluations: what was evaluated, as `plan` gives it.
        records: control -> the records of each evaluation. The first control is what is reported.
        published: what MiniGPT-v2's authors report, by metric.
        skipped: samples that could not be used: `data`, `sample`, `reason`.
    """

    evaluations: Sequence[Evaluation]
    records: Mapping[str, Sequence[list[Record]]]
    published: Mapping[str, float]
    skipped: Sequence[Mapping[str, str]] = ()

    def metrics(self) -> dict[str, Metrics]:
        """By control. An evaluation for which a control found no wrong picture at all has no value there.

        Raises:
            DataError: where an evaluation that is reported has no record.
        """
        found = {}
        for number, (control, own) in enumerate(self.records.items()):
            pairs = list(zip(self.evaluations, own, strict=True))
            empty = [".".join(part) for one, records in pairs if not records for part in one.parts]
            if empty and not number:
                unmixed = UNMIXED if control == OTHERS else ""
                raise DataError(f"no samples to evaluate in {', '.join(empty)}{unmixed}")
            if filled := [pair for pair in pairs if pair[1]]:
                found[control] = summarize(*zip(*filled, strict=True))
        return found

    @property
    def main(self) -> list[tuple[Evaluation, list[Record]]]:
        """The evaluations that are reported, with their records."""
        return list(zip(self.evaluations, next(iter(self.records.values())), strict=True))


def report(results: Results, head: dict[str, Any], out: Path | None, pictures: Pictures) -> None:
    """Write the report to `out`, with the records, the table and the grid beside it; print the table.

    Args:
        results: of the evaluation.
        head: how the report begins.
        out: a JSON file; None: the table is only printed.
        pictures: as for `draw_grid`.

    Raises:
        DataError: without records.
        ConfigError: if it cannot be written.
    """
    metrics = results.metrics()
    main, *controls = metrics
    bounds = intervals(*zip(*results.main, strict=True))
    total = sum(len(records) for _, records in results.main)
    rows = table(metrics, bounds, results.published, total)
    if results.skipped:
        rows.insert(2, ["skipped", format_metric(len(results.skipped)), *[""] * (len(rows[0]) - 2)])
    if out:
        content: dict[str, Any] = {**head, "samples": total, **metrics[main].to_json()}
        content |= {"percentages": sorted(metrics[main].percentages), "intervals": bounds}
        if controls:
            content["controls"] = {control: metrics[control].to_json() for control in controls}
        if results.published:
            content["published"] = results.published
        if results.skipped:
            content["skipped"] = results.skipped
        content["records"] = [
            ({"evaluation": one.name} if one.name else {}) | record.to_json()
            for one, records in results.main
            for record in records
        ]
        try:
            write_json(out, content)
            numbers = range(1, len(rows[0]))
            out.with_suffix(".md").write_text(format_markdown(rows, numbers), encoding="utf-8")
            if main != OTHERS:  # else they would show pictures that nobody was asked about
                records = [record for _, own in results.main for record in own]
                write_predictions(records, out.with_suffix(".predictions.jsonl"))
                draw_grid(results, pictures, out.with_suffix(".png"))
        except OSError as error:
            raise ConfigError(f"--out: {out} could not be written: {error}") from error
        log.info("wrote %s and %s", out, out.with_suffix(".md"))
    # Last: it fails if the reader has gone (`... | head`).
    print(format_table(rows, right=range(1, len(rows[0]))))


def table(
    metrics: Mapping[str, Metrics],
    bounds: Mapping[str, tuple[float, float]],
    published: Mapping[str, float],
    samples: int,
) -> list[list[str]]:
    """A row per metric: its value, the interval, the controls, and what is published; a first row says so.

    Args:
        metrics: by control; the first is what is reported.
        bounds: the intervals, by metric.
        published: by metric.
        samples: how many.
    """
    (_, main), *controls = metrics.items()
    heading = ["", "value", "95 %", *(HEADINGS[control] for control, _ in controls)]
    rows = [[*heading, *(["MiniGPT-v2"] if published else [])]]
    rows.append(["samples", format_metric(samples), *[""] * (len(rows[0]) - 2)])
    for name, value in main.values.items():
        percent = name in main.percentages
        low_high = [format_metric(bound, percent) for bound in bounds.get(name, ())]
        row = [name.replace("_", " "), format_metric(value, percent), " to ".join(low_high)]
        row += [format_metric(one.values.get(name), percent) for _, one in controls]
        if published:
            row.append(format_metric(published[name], percent) if name in published else "")
        rows.append(row)
    return rows


def draw_grid(results: Results, pictures: Pictures, path: Path) -> None:
    """Draw wrong answers, then right ones, with the questions.

    Args:
        results: of the evaluation.
        pictures: gives records of an evaluation, by number, their pictures, where there are any.
        path: a PNG file.
    """
    many = len(results.evaluations)
    for one, records in results.main:
        pictures(one, {number: records[number] for number in to_show(records, many)})
    if draw_shown([record for _, records in results.main for record in records], path):
        log.info("wrote %s", path)

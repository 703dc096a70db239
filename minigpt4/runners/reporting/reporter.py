"""What a run reports: a live line, `log.jsonl`, plots, trackers, and in the end `report.json`."""

import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from minigpt4.common.files import moved_name
from minigpt4.common.formatting import format_bytes, format_duration, format_table
from minigpt4.common.lock import Lock
from minigpt4.common.logger import JsonLines, write_json
from minigpt4.runners.engine import PendingUpdate, UpdateResult
from minigpt4.runners.reporting.plots import draw_loss
from minigpt4.runners.reporting.predictions import write_predictions
from minigpt4.runners.reporting.progress import Progress
from minigpt4.runners.reporting.samples import draw_shown
from minigpt4.runners.reporting.tracking import Trackers
from minigpt4.runners.resources.memory import available_memory, peak_memory, reset_peak_memory
from minigpt4.runners.settings import RunSettings
from minigpt4.runners.state import RunState
from minigpt4.tasks.records import Metrics, Record, format_metric

log = logging.getLogger(__name__)

# Drawing the curve takes a fraction of a second: not at each line of the log.
SECONDS_BETWEEN_PLOTS = 60
TRACKED = ("loss", "lr", "grad_norm", "images_per_second", "tokens_per_second", "skipped")


class Reporter:
    """Everything that a run reports while it works; only the main process reports anything.

    Args:
        settings: of the run.
        accelerator: which process this is.
        config: the whole configuration, for the trackers.
    """

    def __init__(self, settings: RunSettings, accelerator: Accelerator, config: dict[str, Any]) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.config = config
        self.folder = Path(settings.output_dir)
        self.log = JsonLines(self.folder / "log.jsonl")
        self.skipped_log = JsonLines(self.folder / "skipped.jsonl")
        self.drawn = time.monotonic()
        self.last: dict[str, Any] = {}

    def begin(self, state: RunState) -> None:
        """Drop lines that the checkpoint does not know of, connect the trackers, show the live line."""
        s, main = self.settings, self.accelerator.is_main_process
        if main:
            self.log.drop_after(state.step)
            self.skipped_log.drop_after(state.step)
        self.trackers = Trackers(
            s.trackers() if main else [],
            self.folder,
            config=self.config,
            job_name=s.job_name,
            step=state.step,
        )
        reset_peak_memory(self.accelerator.device)
        # After the trackers, whose greetings would stand in the live line.
        self.progress = Progress(
            s.max_epoch * s.iters_per_epoch, s.iters_per_epoch, start_step=state.step, enabled=main
        )

    def close(self) -> None:
        """End the live line, and close the trackers."""
        self.progress.close()
        self.trackers.close()

    def update(self, state: RunState, update: PendingUpdate, result: UpdateResult) -> None:
        """After each update: the live line, and after the first the memory that it took."""
        if not self.last and self.accelerator.is_main_process:
            _log_peak_memory(self.accelerator.device)
        self.last = {
            "epoch": self.settings.epoch_of(update.step),
            "loss": result.loss / result.targets,
            "lr": update.learning_rate,
            # JSON has no word for what is not finite.
            "grad_norm": result.norm if math.isfinite(result.norm) else None,
            **state.window.rates(),
            "skipped": state.skipped,
        }
        self.progress.update(update.step, self.last)

    def line(self, state: RunState, bad: Counter[str]) -> None:
        """Write a line of the log, over all updates since the previous line."""
        window = state.window
        values = {"step": state.step, **self.last, "bad": dict(bad), **window.rates()}
        # Where every update was skipped there is no loss.
        values["loss"] = window.loss / window.targets if window.targets else None
        if self.accelerator.is_main_process:
            self.log.write(**values)
            self.progress.line(values)
            self.trackers.log(
                {f"train/{key}": values[key] for key in TRACKED if values[key] is not None}, state.step
            )
            if time.monotonic() - self.drawn > SECONDS_BETWEEN_PLOTS:
                self._draw(state)

    def skipped(self, step: int, result: UpdateResult, keys: list[str]) -> None:
        """Report an update that was skipped, and write down its samples.

        Args:
            step: number of steps after it.
            result: of it.
            keys: of its samples, on all ranks.
        """
        if self.accelerator.is_main_process:
            # As text, for the same reason as above.
            norm = str(result.norm)
            self.skipped_log.write(step=step, loss=str(result.loss), grad_norm=norm, keys=keys)
            log.warning(
                "step %d is skipped: loss %s, gradient %s; its samples are in %s",
                step,
                result.loss,
                norm,
                self.skipped_log.path,
            )

    def validation(self, state: RunState, metrics: Metrics, records: list[Record]) -> None:
        """The deciding metrics of held-out data, and a grid of what was said of some of it."""
        if not self.accelerator.is_main_process:
            return
        name, all_values = metrics.best, metrics.to_json()
        values = {one: all_values[one] for one in (name, *metrics.curves)}
        line = {"step": state.step, "epoch": self.settings.epoch_of(state.step)}
        line |= {f"valid_{one}": value for one, value in values.items()}
        # A run that was killed after this line, and before it was saved, comes here again.
        if line not in self.log.read():
            self.log.write(**line)
        best = "" if state.best_value is None else f" (best: {state.best_value:.4f} at {state.best_step})"
        log.info("step %d: validation %s %.4f%s", state.step, name, metrics.values[name], best)
        known = {f"valid/{one}": value for one, value in values.items() if value is not None}
        if known:
            self.trackers.log(known, state.step)
        path = self.folder / "samples" / f"step_{state.step:06d}.png"
        if draw_shown(records, path):
            self.trackers.log_image("valid/samples", path, state.step)
        self._draw(state)

    def end(
        self, state: RunState, metrics: Metrics | None, records: list[Record], more: dict[str, Any]
    ) -> dict[str, Any]:
        """Write `report.json`, `loss.png` and, where records have pictures, `samples.png`.

        Args:
            state: at the end.
            metrics: of the evaluation after training, if there was one.
            records: of it; those with a picture are drawn.
            more: what else the report holds.

        Returns:
            What `report.json` holds.
        """
        report = {
            **({"samples": len(records), **metrics.to_json()} if metrics else {}),
            "before": state.before,
            "percentages": sorted(metrics.percentages) if metrics else [],
            "steps": state.step,
            "images": state.images,
            "train_seconds": round(state.seconds, 1),
            "skipped_steps": state.skipped,
            "peak_memory": peak_memory(self.accelerator.device),
            **more,
        }
        if state.best_value is not None:
            name, value = state.best_metric, state.best_value
            report |= {"best_metric": name, f"best_valid_{name}": value, "best_step": state.best_step}
        if self.accelerator.is_main_process:
            self.log.drop_after(state.step)  # moves lines aside that were damaged meanwhile
            write_json(self.folder / "report.json", report)
            self._draw(state)
            written = ["report.json", "loss.png"]
            if write_predictions(records, self.folder / "predictions.jsonl"):
                written.append("predictions.md")
            if draw_shown(records, self.folder / "samples.png"):
                written.append("samples.png")
            log.info("wrote %s to %s", ", ".join(written), self.folder)
        return report

    def _draw(self, state: RunState) -> None:
        self.drawn = time.monotonic()
        draw_loss(self.log.read(), self.folder / "loss.png", self.folder.name, state.best_step)


def _log_peak_memory(device: torch.device) -> None:
    peak, available = peak_memory(device), available_memory(device)
    if peak is not None:
        share = f", {peak / available:.0%} of {format_bytes(available)}" if available else ""
        log.info("memory on %s at the peak of the first update: %s%s", device, format_bytes(peak), share)


def keep_earlier_run(folder: Path, lock: Lock) -> None:
    """Move what an earlier run left in the output folder to a `moved_name`. Nothing is lost.

    Args:
        folder: the output folder.
        lock: held in the folder, before and after.
    """
    if not (folder / "log.jsonl").exists() and not list(folder.glob("checkpoint_*.pth")):
        return
    kept = moved_name(folder)
    lock.move_folder(kept)
    log.warning("%s held an earlier run, which was moved: its files are in %s now", folder, kept)


def report_table(report: dict[str, Any]) -> str:
    """The metrics before and after training, one per line."""
    before = report.get("before") or {}
    names = [name for name in before if name != "samples"]
    rows: list[tuple[str, ...]] = [("held-out samples", "before", "after")]
    for name in names:
        percent = name in report["percentages"]
        values = (format_metric(metrics.get(name), percent) for metrics in (before, report))
        rows.append((name.replace("_", " "), *values))
    rows.append(("trainable parameters", "", f"{report['trainable_parameters']:,}"))
    rows.append(("training time", "", format_duration(report["train_seconds"])))
    return format_table(rows, right=(1, 2))

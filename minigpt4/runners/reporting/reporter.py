"""What a run tells: a live line, `log.jsonl`, plots, trackers, and in the end `report.json`."""

import logging
import math
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from minigpt4.common.formatting import format_bytes
from minigpt4.common.logger import JsonLines, write_json
from minigpt4.runners.engine import Outcome, Result
from minigpt4.runners.reporting.plots import draw_loss, draw_samples
from minigpt4.runners.reporting.progress import Progress
from minigpt4.runners.reporting.tracking import Trackers
from minigpt4.runners.resources.memory import available_memory, peak_memory, reset_peak_memory
from minigpt4.runners.settings import RunSettings
from minigpt4.runners.state import RunState

log = logging.getLogger(__name__)

# Drawing the curve takes a fraction of a second: not at each line of the log.
SECONDS_BETWEEN_PLOTS = 60
TRACKED = ("loss", "lr", "grad_norm", "images_per_second", "tokens_per_second", "skipped")


class Reporter:
    """Everything that a run tells while it works. Only the main process tells anything.

    Entered, it shows the live line and is connected to the trackers.

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
        """Go on behind the last line that the run's checkpoint knows, and show that it works."""
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
        """End the live line, and say goodbye to the trackers."""
        self.progress.close()
        self.trackers.close()

    def update(self, state: RunState, outcome: Outcome, result: Result) -> None:
        """After each update: the live line, and after the first the memory that it took."""
        if not self.last and self.accelerator.is_main_process:
            _log_peak_memory(self.accelerator.device)
        self.last = {
            "epoch": self.settings.epoch_of(outcome.step),
            "loss": result.loss / result.targets,
            "lr": outcome.learning_rate,
            # JSON has no word for what is not finite.
            "grad_norm": result.norm if math.isfinite(result.norm) else None,
            **state.window.rates(),
            "skipped": state.skipped,
        }
        self.progress.update(outcome.step, self.last)

    def line(self, state: RunState, bad: Counter[str]) -> None:
        """A line of the log, over all updates since the line before."""
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
                self._draw()

    def skipped(self, step: int, result: Result, keys: list[str]) -> None:
        """An update that was left out: the samples it would have been made of are kept on disk.

        Args:
            step: how many there are after it.
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

    def validation(self, state: RunState, loss: float, records: list[dict[str, Any]]) -> None:
        """The loss of held-out data, and a grid of what is said of some of it."""
        if not self.accelerator.is_main_process:
            return
        finite = loss if math.isfinite(loss) else None
        record = {"step": state.step, "epoch": self.settings.epoch_of(state.step), "valid_loss": finite}
        # A run that was stopped before this line, and killed behind it, comes here again.
        if record not in self.log.read():
            self.log.write(**record)
        best = "" if state.best_loss is None else f" (best: {state.best_loss:.4f} at {state.best_step})"
        log.info("step %d: validation loss %.4f%s", state.step, loss, best)
        if finite is not None:
            self.trackers.log({"valid/loss": loss}, state.step)
        drawn = [record for record in records if "image" in record]
        if drawn:
            path = self.folder / "samples" / f"step_{state.step:06d}.png"
            path.parent.mkdir(exist_ok=True)
            draw_samples(drawn, path)
            self.trackers.log_image("valid/samples", path, state.step)
        self._draw()

    def end(
        self, state: RunState, metrics: dict[str, float], records: list[dict[str, Any]], more: dict[str, Any]
    ) -> dict[str, Any]:
        """Write `report.json`, `loss.png` and, where something was captioned, `samples.png`.

        Args:
            state: at the end.
            metrics: of the evaluation after training.
            records: of it; those with an `image` are drawn.
            more: what else the report holds.

        Returns:
            What `report.json` holds.
        """
        report = {
            **metrics,
            "before": state.before,
            "steps": state.step,
            "images": state.images,
            "train_seconds": round(state.seconds, 1),
            "skipped_steps": state.skipped,
            **more,
        }
        if state.best_loss is not None:
            report |= {"best_valid_loss": state.best_loss, "best_step": state.best_step}
        if self.accelerator.is_main_process:
            write_json(self.folder / "report.json", report)
            self._draw()
            drawn = [record for record in records if "image" in record]
            if drawn:
                draw_samples(drawn, self.folder / "samples.png")
            log.info("wrote report.json, loss.png%s to %s", " and samples.png" if drawn else "", self.folder)
        return report

    def _draw(self) -> None:
        self.drawn = time.monotonic()
        draw_loss(self.log.read(), self.folder / "loss.png")


def _log_peak_memory(device: torch.device) -> None:
    peak, available = peak_memory(device), available_memory(device)
    if peak is not None:
        share = f", {peak / available:.0%} of {format_bytes(available)}" if available else ""
        log.info("memory on %s at the peak of the first update: %s%s", device, format_bytes(peak), share)


def keep_earlier_run(folder: Path) -> None:
    """Move what an earlier run left in the output folder to `folder.1`, `folder.2`, ... Nothing is lost."""
    if not (folder / "log.jsonl").exists() and not list(folder.glob("checkpoint_*.pth")):
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(kept)
    log.info("moved the earlier run in %s to %s", folder, kept)


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

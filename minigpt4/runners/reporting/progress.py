"""How far a run is: one live line on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from minigpt4.common.formatting import format_count, format_duration

log = logging.getLogger(__name__)


class Progress:
    """Shows how far a run is, and how long it will still take.

    Until `close`, a terminal shows one line that is kept up to date, and what is logged meanwhile appears
    above it. Where the output is a file or a pipe there is no such line, and `line` logs the same words.

    Args:
        total_steps: of the whole run.
        iters_per_epoch: steps per epoch.
        start_step: steps that were done before, where a run is resumed.
        enabled: False shows nothing at all (processes other than the main one).
        stream: where the live line goes if it is a terminal.
    """

    def __init__(
        self,
        total_steps: int,
        iters_per_epoch: int,
        start_step: int = 0,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.total_steps = total_steps
        self.iters_per_epoch = iters_per_epoch
        self.step = start_step
        self.enabled = enabled
        self._values: dict[str, Any] = {}
        self._first: tuple[int, float] | None = None
        self._open = ExitStack()
        self._line: _LiveLine | None = None
        terminal: TextIO = sys.stderr if stream is None else stream
        if enabled and terminal.isatty():
            self._open.enter_context(logging_redirect_tqdm())
            self._line = self._open.enter_context(_LiveLine(self, terminal))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the live line as it is now; what comes afterwards appears below it."""
        self._open.close()
        self._line = None

    def update(self, step: int, values: dict[str, Any]) -> None:
        """A step was done. The live line is drawn at most ten times per second.

        Args:
            step: how many were done in all.
            values: any of `loss`, `lr`, `images_per_second`, `tokens_per_second`, `bad` (reason -> samples),
                `skipped` (steps). What is not in it stays as it was.
        """
        self.step = step
        self._values |= values
        if self._first is None:
            # The first step's time says nothing about the others: workers start in it, kernels are compiled.
            self._first = step, time.perf_counter()
        if self._line is not None:
            self._line.update(step - self._line.n)

    def line(self, values: dict[str, Any]) -> None:
        """Log what the live line shows, where there is none.

        Args:
            values: as for `update`.
        """
        self._values |= values
        if self.enabled and self._line is None:
            log.info(self.text())

    def text(self) -> str:
        """What is known now; what a narrow terminal should not cut off comes first."""
        values = self._values
        bad, skipped = sum(values.get("bad", {}).values()), values.get("skipped", 0)
        parts = [
            f"epoch {max(self.step - 1, 0) // self.iters_per_epoch}",
            f"step {self.step}/{self.total_steps}",
            self._left(),
            _shown("loss {:.4f}", values.get("loss")),
            bad and format_count(bad, "bad sample"),
            skipped and format_count(skipped, "skipped step"),
            _shown("lr {:.2e}", values.get("lr")),
            _shown("{:,.1f} images/s", values.get("images_per_second")),
            _shown("{:,.0f} tokens/s", values.get("tokens_per_second")),
        ]
        return ", ".join(part for part in parts if part)

    def _left(self) -> str:
        """From the mean over all steps but the first, including validations and checkpoints between them."""
        if self._first is None or self.step == self._first[0]:
            return ""
        first, since = self._first
        left = (self.total_steps - self.step) * (time.perf_counter() - since) / (self.step - first)
        return f"{format_duration(left)} left"


class _LiveLine(tqdm):
    """tqdm's line with our words before its bar. They are put together only when the line is drawn."""

    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self.progress = progress
        super().__init__(
            total=progress.total_steps,
            initial=progress.step,
            file=stream,
            dynamic_ncols=True,
            miniters=1,
            bar_format="{words} |{bar}|",
        )

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "words": self.progress.text()}


def _shown(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)

"""The live line, as a person sees it on a terminal; plain lines where there is none."""

import io
import logging
import os
import re
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tqdm import tqdm

from minigpt4.common.logger import setup_logger
from minigpt4.runners.reporting import progress as progress_module
from minigpt4.runners.reporting.progress import Progress

VALUES = {"loss": 2.34567, "lr": 1e-4, "images_per_second": 213.34, "tokens_per_second": 4312.2, "skipped": 0}


class Terminal:
    """A pseudo terminal of some width as standard error, and what it shows in the end.

    Attributes:
        raw: all that was written.
    """

    def __init__(self, columns: int) -> None:
        import fcntl
        import pty
        import termios

        self.columns = columns
        self.raw = ""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        written = b""
        try:
            while piece := os.read(self._ours, 65536):
                written += piece
        except OSError:  # Linux's way to say that the other end is closed
            pass
        self.raw = written.decode()

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
            self._reader.join()
            os.close(self._ours)

    def rows(self) -> list[str]:
        """The screen when all is written, without its empty rows at the end."""
        self.close()
        rows, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[A|.", self.raw, flags=re.DOTALL):
            if token == "\r":
                column = 0
            elif token == "\n":
                row += 1
            elif token == "\x1b[A":
                row -= 1
            else:
                if column == self.columns:  # a line that is too long goes on in the next row
                    row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
                rows[row] = rows[row][:column].ljust(column) + token + rows[row][column + 1 :]
                column += 1
            rows += [""] * (row + 1 - len(rows))
        return [line.rstrip() for line in "\n".join(rows).rstrip().splitlines()]


@contextmanager
def logging_to(stream: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error is `stream`, and our logger writes there; pytest's own handlers are spared."""
    root = logging.getLogger()
    handlers, level, root.handlers = root.handlers, root.level, []
    try:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            setup_logger()
            yield
    finally:
        root.handlers = handlers
        root.setLevel(level)


def short_run(progress: Progress) -> None:
    """Six steps in two epochs, with all that is told meanwhile."""
    log = logging.getLogger("a run")
    for step in range(1, 7):
        progress.update(step, VALUES)
        if step % 3 == 0:
            progress.line({"bad": {"broken image": step, "no caption": 1}})
            for _ in tqdm(range(2), desc="evaluating", disable=None):
                log.info("captioned after step %d", step)


@pytest.fixture
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    pytest.importorskip("pty", reason="pseudo terminals are Unix's")
    screen = Terminal(request.param)
    yield screen
    screen.close()


@pytest.mark.parametrize("terminal", [160], indirect=True)
def test_progress_on_a_terminal_is_one_line_below_the_log(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logging_to(terminal.stream, monkeypatch):
        with Progress(6, 3) as progress:
            short_run(progress)
        logging.getLogger("a run").info("done")
    # A bar inside of ours is replaced by the next message, or stays as a line of its own.
    rows = [row for row in terminal.rows() if not row.startswith("evaluating: 100%")]
    *captioned, live, done = rows
    assert [re.sub(r"^\d\d:\d\d:\d\d ", "", row) for row in captioned] == [
        *["INFO captioned after step 3"] * 2,
        *["INFO captioned after step 6"] * 2,
    ]
    assert re.fullmatch(
        r"epoch 1, step 6/6, 0 s left, loss 2\.3457, 7 bad samples, lr 1\.00e-04, 213\.3 images/s, "
        r"4,312 tokens/s \|█+\|",
        live,
    )
    assert done.endswith("INFO done")
    assert "epoch 0, step 3/6" in terminal.raw


@pytest.mark.parametrize("terminal", [60], indirect=True)
def test_progress_on_a_narrow_terminal_is_one_row(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with logging_to(terminal.stream, monkeypatch), Progress(6, 3, start_step=4) as progress:
        progress.update(5, VALUES)
        progress.update(6, VALUES)
    (live,) = terminal.rows()
    assert live.startswith("epoch 1, step 6/6, 0 s left, loss 2.3457, lr 1.00e-04, 213")


def test_progress_in_a_file_is_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    with logging_to(stream, monkeypatch), Progress(6, 3) as progress:
        short_run(progress)
    lines = [line.split(" INFO ")[1] for line in stream.getvalue().splitlines()]
    assert lines[1] == lines[2] == "captioned after step 3"
    assert re.fullmatch(
        r"epoch 0, step 3/6, 0 s left, loss 2\.3457, 4 bad samples, lr 1\.00e-04, 213\.3 images/s, "
        r"4,312 tokens/s",
        lines[0],
    )
    assert lines[3].startswith("epoch 1, step 6/6, 0 s left, loss 2.3457, 7 bad samples")
    assert "\r" not in stream.getvalue() and len(lines) == 6


def test_progress_of_other_processes_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: True
    with logging_to(stream, monkeypatch), Progress(6, 3, enabled=False) as progress:
        progress.update(3, VALUES)
        progress.line(VALUES)
    assert stream.getvalue() == ""


def test_progress_estimates_the_time_left_without_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: now[0])
    progress = Progress(1000, 100, start_step=500, stream=io.StringIO())
    assert progress.text() == "epoch 4, step 500/1000"
    now[0] += 300  # kernels compile in the first step
    progress.update(501, {})
    assert progress.text() == "epoch 5, step 501/1000"
    now[0] += 10
    progress.update(502, {})
    assert progress.text() == "epoch 5, step 502/1000, 1 h 23 min left"  # 498 steps of 10 s
    now[0] += 60 + 8 * 10  # a validation among eight steps
    progress.update(510, {"loss": None, "skipped": 1})
    # 9 steps took 150 s, so 490 take 8,167 s.
    assert progress.text() == "epoch 5, step 510/1000, 2 h 16 min left, 1 skipped step"


@pytest.mark.parametrize("terminal", [160], indirect=True)
def test_progress_makes_its_words_only_when_they_are_drawn(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(Progress, "text", lambda self: drawn.append(time.perf_counter()) or "words")
    with Progress(5000, 100, stream=terminal.stream) as progress:
        for step in range(1, 5001):
            progress.update(step, VALUES)
    # At most ten times a second, and at both ends: a thousand would be 100 seconds.
    assert 2 <= len(drawn) < 1000

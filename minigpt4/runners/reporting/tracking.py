"""Trackers: tensorboard, wandb and trackio are told what the log is told, by those who ask for it.

Each is imported where it is used. None is worth a run: one that fails is left out, and training goes on.
"""

import importlib.util
import json
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from minigpt4.common.errors import ConfigError, nearest

log = logging.getLogger(__name__)

PROJECT = "minigptv"  # the original's
# How long the end of a run waits for wandb to send the rest. It stays on the disk for `wandb sync`.
SECONDS_TO_SEND = 300


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told first.

    Attributes:
        folder: the run's output folder.
        name: for people.
        id: the same when the run goes on after an interruption.
        step: the run goes on after this one.
        config: of the run.
    """

    folder: Path
    name: str
    id: str
    step: int
    config: dict[str, Any]


class Tracker(Protocol):
    """Begins when it is made."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def log_image(self, name: str, path: Path, step: int) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the output folder's `tensorboard`."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote of later steps is not shown.
        purge_step = run.step + 1 if run.step else None
        self.writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge_step)
        indented = json.dumps(run.config, indent=2, default=str).replace("\n", "\n    ")
        self.writer.add_text("config", f"    {indented}", run.step)  # indented, markdown shows it as it is

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def log_image(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        self.writer.add_image(name, pixels, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the project `minigptv`; without a login it is kept in the output folder, to be sent later."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        offline = not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False, verify=False)
        self.run = wandb.init(
            project=PROJECT,
            name=run.name,
            id=run.id,
            resume="allow",
            dir=str(run.folder),
            config=run.config,
            mode="offline" if offline else None,
            settings=wandb.Settings(finish_timeout=SECONDS_TO_SEND),
        )
        if offline:
            kept = run.folder / "wandb" / f"offline-run-*-{run.id}*"
            log.warning("wandb has no login here; to send the run later: wandb login; wandb sync %s", kept)

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """A run of the project `minigptv` in trackio's own folder, or where its environment variables say."""

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        # It knows a run that goes on by its name.
        name = f"{run.name}-{run.id}"
        self.run = trackio.init(project=PROJECT, name=name, resume="allow", config=run.config, embed=False)

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def log_image(self, name: str, path: Path, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Image(str(path))}, step=step)

    def close(self) -> None:
        self.run.finish()


# What `run.tracker` may name; the names are also those of the packages.
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a tracker is unknown or not installed. Imports nothing."""
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(
                f"run.tracker: unknown {name!r}{nearest(name, TRACKERS)} (known: {', '.join(TRACKERS)})"
            )
        found = importlib.util.find_spec(name)
        # A folder of that name, such as wandb leaves where it works, is found too. It has no origin.
        if found is None or found.origin is None:
            raise ConfigError(f"run.tracker: {name} is not installed: pip install '.[track]'")


def make_trackers(
    names: Sequence[str], folder: Path, *, config: dict[str, Any], job_name: str = "", step: int = 0
) -> "Trackers":
    """Begin to track a run, or go on with it.

    Args:
        names: of `TRACKERS`; none on processes other than the main one.
        folder: the run's output folder.
        config: of the run.
        job_name: the run's name; the folder's name where it is empty.
        step: the run goes on after this one.

    Raises:
        ConfigError: as `check_trackers`.
    """
    check_trackers(names)
    running: dict[str, Tracker] = {}
    if names:
        run = TrackedRun(folder, job_name or folder.resolve().name, _run_id(folder), step, config)
        for name in names:
            with _or_without(name, running):
                running[name] = TRACKERS[name](run)
    return Trackers(running)


def _run_id(folder: Path) -> str:
    """Kept in the output folder: a run that goes on there is the same run."""
    path = folder / "tracker_id.txt"
    if not path.exists():
        path.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
    return path.read_text(encoding="utf-8").strip()


@contextmanager
def _or_without(name: str, running: dict[str, Tracker]) -> Iterator[None]:
    """A tracker that raises is warned of, and told nothing more."""
    try:
        yield
    # Whatever others' code raises (no network, a full disk, a changed interface): training goes on.
    except Exception as error:
        running.pop(name, None)
        log.warning("%s fails, the run goes on without it (%s: %s)", name, type(error).__name__, error)


class Trackers:
    """All trackers of a run.

    Args:
        running: name -> tracker.
    """

    def __init__(self, running: dict[str, Tracker]) -> None:
        self._running = running

    def log(self, values: dict[str, float], step: int) -> None:
        """Tell numbers. Those of a later call must not be of an earlier step."""
        self._tell(lambda tracker: tracker.log(values, step))

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Show a picture's file. It may be replaced afterwards."""
        self._tell(lambda tracker: tracker.log_image(name, path, step))

    def close(self) -> None:
        """Send what is left. Nothing can be told afterwards."""
        self._tell(lambda tracker: tracker.close())
        self._running.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._running.items()):
            with _or_without(name, self._running):
                what(tracker)

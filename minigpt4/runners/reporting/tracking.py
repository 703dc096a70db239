"""Trackers (tensorboard, wandb, trackio): accelerate's, and one that fails never ends a run."""

import importlib.util
import json
import logging
import os
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError, nearest

log = logging.getLogger(__name__)

TRACKERS = ("tensorboard", "wandb", "trackio")  # what `run.tracker` may name, and the packages' names
PROJECT = "minigptv"  # the original's
RUN_ID = re.compile(r"[\w-]{1,64}", re.ASCII)
# How long the end of a run waits for wandb to send the rest. It stays on the disk for `wandb sync`.
SECONDS_TO_SEND = 300


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError if a tracker is unknown or not installed. Imports nothing."""
    for name in names:
        if name not in TRACKERS:
            known = f"(known: {', '.join(TRACKERS)})"
            raise ConfigError(f"run.tracker: unknown {name!r}{nearest(name, TRACKERS)} {known}")
        found = importlib.util.find_spec(name)
        # A folder of that name, such as wandb leaves where it works, is found too. It has no origin.
        if found is None or found.origin is None:
            raise ConfigError(f"run.tracker: {name} is not installed: pip install '.[track]'")


class Trackers:
    """All trackers of a run, or of one that goes on.

    Args:
        names: of `TRACKERS`; none on processes other than the main one.
        folder: the run's output folder.
        config: of the run.
        job_name: the run's name; the folder's name where it is empty.
        step: the run goes on after this one.
    """

    def __init__(
        self, names: Sequence[str], folder: Path, *, config: dict[str, Any], job_name: str = "", step: int = 0
    ) -> None:
        self._running: dict[str, Any] = dict.fromkeys(names)
        run_name = job_name or folder.resolve().name
        self._running = self._each(lambda name, _: _start(name, folder, config, run_name, step))

    def log(self, values: dict[str, float], step: int) -> None:
        """Log numbers. Those of a later call must not be of an earlier step."""
        self._each(lambda _, tracker: tracker.log(values, step))

    def log_image(self, name: str, path: Path, step: int) -> None:
        """Log a picture's file. It may be replaced afterwards."""
        self._each(lambda _, tracker: _log_image(tracker, name, path, step))

    def close(self) -> None:
        """Send what is left."""
        self._each(lambda _, tracker: tracker.finish())

    def _each(self, call: Callable[[str, Any], Any]) -> dict[str, Any]:
        """Call with the name of each tracker and itself -> results by name. One that raises is left out."""
        results = {}
        for name, tracker in list(self._running.items()):
            try:
                results[name] = call(name, tracker)
            # Whatever others' code raises (no network, a full disk, a changed interface): training goes on.
            except Exception as error:
                del self._running[name]
                reason = f"{type(error).__name__}: {error}"
                log.warning("%s fails, the run goes on without it (%s)", name, reason)
        return results


def _start(name: str, folder: Path, config: dict[str, Any], run_name: str, step: int) -> Any:
    """One of accelerate's trackers, begun."""
    from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker

    id_file = folder / "tracker_id.txt"  # a run resumed in this folder is the same run
    run_id = id_file.read_bytes().decode("ascii", "replace").strip() if id_file.is_file() else ""
    if not RUN_ID.fullmatch(run_id):
        run_id = secrets.token_hex(4)
        id_file.write_text(run_id + "\n", encoding="utf-8")
    if name == "tensorboard":  # in the output folder's `tensorboard`; what came after the step is not shown
        tracker = TensorBoardTracker(name, folder, purge_step=step + 1 if step else None)
    elif name == "wandb":
        arguments = _wandb_arguments(folder, run_id)
        tracker = WandBTracker(PROJECT, name=run_name, config=config, resume="allow", **arguments)
    else:  # it knows a run that goes on by its name
        arguments = {"name": f"{run_name}-{run_id}", "embed": False}
        tracker = TrackioTracker(PROJECT, config=config, resume="allow", **arguments)
    tracker.start()
    if name == "tensorboard":
        indented = json.dumps(config, indent=2, default=str).replace("\n", "\n    ")
        tracker.log({"config": f"    {indented}"}, step)  # indented, Markdown shows it as it is
    return tracker


def _wandb_arguments(folder: Path, run_id: str) -> dict[str, Any]:
    """Without a login, a run is kept in the output folder, to be sent later."""
    import wandb

    offline = not os.environ.get("WANDB_MODE") and not wandb.login(prompt=False, verify=False)
    if offline:
        kept = folder / "wandb" / f"offline-run-*-{run_id}*"
        log.warning("wandb has no login here; to send the run later: wandb login; wandb sync %s", kept)
    settings = wandb.Settings(finish_timeout=SECONDS_TO_SEND)
    return {"id": run_id, "dir": str(folder), "mode": "offline" if offline else None, "settings": settings}


def _log_image(tracker: Any, name: str, path: Path, step: int) -> None:
    import numpy as np
    from PIL import Image

    if tracker.name == "trackio":  # accelerate logs no pictures there
        import trackio

        return tracker.log({name: trackio.Image(str(path))}, step)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))[None]
    layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
    return tracker.log_images({name: pixels}, step, **layout)

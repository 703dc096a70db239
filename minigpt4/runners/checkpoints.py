"""The checkpoints of a run: which there are, which are kept, and which is the newest whole one."""

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.checkpoint import read_checkpoint, save_checkpoint
from minigpt4.common.errors import CheckpointError

log = logging.getLogger(__name__)

LATEST, BEST = "checkpoint_latest.pth", "checkpoint_best.pth"
EPOCH_END = re.compile(r"checkpoint_(\d+)\.pth")
BETWEEN = re.compile(r"checkpoint_step_(\d+)\.pth")


class CheckpointFolder:
    """Writes a run's checkpoints and finds them again.

    `checkpoint_<epoch>.pth` at an epoch's end, `checkpoint_step_<step>.pth` between; `checkpoint_latest.pth`
    and `checkpoint_best.pth` are second names of one of them each, and take no room of their own where the
    file system can link.

    Args:
        folder: the run's output folder.
        keep: how many of either kind are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: Mapping[str, Any], *, epoch_end: bool, best: bool) -> Path:
        """Write one, whole or not at all, and remove what is too old.

        Args:
            state: what it holds, `epoch` and `step` among it.
            epoch_end: whether an epoch has just ended.
            best: whether nothing before had a lower validation loss.

        Raises:
            CheckpointError: if it cannot be written; what was there before is still there.
        """
        name = f"checkpoint_{state['epoch']}.pth" if epoch_end else f"checkpoint_step_{state['step']}.pth"
        path = self.folder / name
        try:
            save_checkpoint(state, path)
            for other in (LATEST, *([BEST] if best else [])):
                _second_name(path, self.folder / other)
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written: {error}. Make room and go on from the newest whole checkpoint "
                "with --resume auto"
            ) from error
        for pattern in (EPOCH_END, BETWEEN):
            for old in self._numbered(pattern)[self.keep :]:
                old.unlink(missing_ok=True)
        log.info("saved %s%s", path, " (the best so far)" if best else "")
        return path

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed while it wrote had written so far."""
        for part in self.folder.glob(".checkpoint_*.part"):
            part.unlink(missing_ok=True)

    def newest(self) -> Path | None:
        """The newest checkpoint that can be read, or None if the folder has none.

        Raises:
            CheckpointError: if there are some, and all of them are damaged.
        """
        candidates = [self.folder / LATEST, *self._numbered(EPOCH_END), *self._numbered(BETWEEN)]
        candidates = sorted(filter(Path.is_file, candidates), key=lambda path: -path.stat().st_mtime_ns)
        for path in candidates:
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                log.warning("passing over a damaged checkpoint: %s", error)
            else:
                return path
        if candidates:
            raise CheckpointError(f"none of the {len(candidates)} checkpoints in {self.folder} can be read")
        return None

    def _numbered(self, pattern: re.Pattern[str]) -> list[Path]:
        """Those of one kind, the newest first."""
        found = {
            path: int(match[1])
            for path in self.folder.glob("*.pth")
            if (match := pattern.fullmatch(path.name))
        }
        return sorted(found, key=found.__getitem__, reverse=True)


def _second_name(path: Path, name: Path) -> None:
    """Make `name` another name of the file `path`; at every moment it is the old file or the new one."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}.part")
    try:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        temporary.replace(name)
    finally:
        temporary.unlink(missing_ok=True)

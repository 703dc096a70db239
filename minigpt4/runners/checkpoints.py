"""The checkpoints of a run: which there are, which are kept, and which is the newest that is intact."""

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.config import config_changes
from minigpt4.common.errors import CheckpointError, ConfigError, reading
from minigpt4.common.files import replacing
from minigpt4.weights.checkpoint import flush_folder, read_checkpoint, save_checkpoint
from minigpt4.weights.resolver import WeightSource, locate, resolve_file

log = logging.getLogger(__name__)

AUTO = "auto"  # of run.resume_ckpt_path
LATEST, BEST = "checkpoint_latest.pth", "checkpoint_best.pth"
# What a checkpoint needs beside the weights, so that its run can be resumed.
OF_A_RUN = {"optimizer": dict, "step": int, "rng": list, "sampler": list, "config": dict}
EPOCH_END, BETWEEN = "checkpoint_{}.pth", "checkpoint_step_{}.pth"


class CheckpointFolder:
    """Writes a run's checkpoints and finds them again.

    `checkpoint_<epoch>.pth` is written at an epoch's end, `checkpoint_step_<step>.pth` in between.
    `checkpoint_latest.pth` and `checkpoint_best.pth` are second names of one of them each, and take no disk
    space of their own where the file system has hard links. The latest is named last: whatever a kill before
    that leaves undone, the run that is resumed from the checkpoint before does again.

    Args:
        folder: the run's output folder.
        keep: how many of each kind are kept.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, state: Mapping[str, Any], *, epoch_end: bool, best: bool) -> Path:
        """Write a checkpoint, completely or not at all, and remove those that are too old.

        Args:
            state: what it holds, including `epoch` and `step`.
            epoch_end: whether an epoch has just ended.
            best: whether no validation before was better.

        Raises:
            CheckpointError: if it cannot be written; what was there before is still there.
        """
        name = EPOCH_END.format(state["epoch"]) if epoch_end else BETWEEN.format(state["step"])
        path = self.folder / name
        try:
            save_checkpoint(state, path)
            for other in (*([BEST] if best else []), LATEST):
                _second_name(path, self.folder / other)
            flush_folder(self.folder)
        except OSError as error:
            raise CheckpointError(
                f"{path} could not be written: {error}. Free some disk space, then resume from the newest "
                "intact checkpoint with --resume auto"
            ) from error
        self._remove_old(state["epoch"], state["step"])
        log.info("saved %s%s", path, " (the best so far)" if best else "")
        return path

    def remove_leftovers(self, epoch: int, step: int) -> None:
        """Remove what a process that was killed had not finished writing, or not yet removed.

        Args:
            epoch, step: of the checkpoint that the run is resumed from.
        """
        for part in self.folder.rglob(".*.part"):
            part.unlink(missing_ok=True)
        self._remove_old(epoch, step)

    def _remove_old(self, epoch: int, step: int) -> None:
        """Remove all but the `keep` most useful of each kind, for a run that is at this step."""
        for kind, number in ((EPOCH_END, epoch), (BETWEEN, step)):
            existing = self._numbered(kind)
            # A run that was resumed from an earlier one needs those that came after it less than its own.
            by_use = sorted(existing, key=lambda other, number=number: (other > number, -other))
            for other in by_use[self.keep :]:
                existing[other].unlink(missing_ok=True)

    def to_resume(self, wanted: str | None) -> Path | None:
        """The checkpoint that `run.resume_ckpt_path` means, if there is one."""
        if not wanted:
            return None
        if wanted != AUTO:
            return resolve_file(wanted, "run.resume_ckpt_path")
        newest = self.newest()
        if newest is None:
            log.info("nothing to resume in %s: starting a new run", self.folder)
        return newest

    def newest(self) -> Path | None:
        """The newest checkpoint that is intact, or None if the folder has none.

        Raises:
            CheckpointError: if there are checkpoints, and all of them are damaged.
        """
        numbered = [*self._numbered(EPOCH_END).values(), *self._numbered(BETWEEN).values()]
        numbered.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
        candidates = [self.folder / LATEST, *numbered, self.folder / BEST]
        candidates = list(filter(Path.is_file, candidates))
        for path in candidates:
            try:
                read_checkpoint(path)
                _compare_checksums(path)
            except CheckpointError as error:
                log.warning("skipping a damaged checkpoint: %s", error)
            else:
                return path
        if candidates:
            raise CheckpointError(f"none of the {len(candidates)} checkpoints in {self.folder} can be read")
        return None

    def _numbered(self, kind: str) -> dict[int, Path]:
        """All of one kind, by their numbers."""
        pattern = re.compile(re.escape(kind).replace(r"\{\}", r"(\d+)"))
        matches = {path: pattern.fullmatch(path.name) for path in self.folder.glob("*.pth")}
        return {int(match[1]): path for path, match in matches.items() if match}


def check_resumable(wanted: str | None) -> None:
    """Raise ConfigError if `run.resume_ckpt_path` names a file that is not there; nothing is read."""
    if wanted and wanted != AUTO:
        try:
            locate(WeightSource("run.resume_ckpt_path", wanted, "file"))
        except ConfigError as error:
            raise ConfigError(f"{error} ({AUTO!r} is the newest in run.output_dir, if any)") from error


def read_resumable(path: Path, config: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """Read a checkpoint to resume training from, and warn of what the configuration says otherwise now.

    Args:
        path: of the checkpoint.
        config: of the run, as the checkpoint has it too.
        ignored: keys that may differ, e.g. `run.device`.

    Raises:
        CheckpointError: if it is not one of a run, but only one of weights, say.
    """
    checkpoint = read_checkpoint(path)
    for key, kind in OF_A_RUN.items():
        if key not in checkpoint:
            raise CheckpointError(f"run.resume_ckpt_path: {path} has no {key!r}, it cannot be resumed")
        if type(checkpoint[key]) is not kind:
            raise CheckpointError(f"run.resume_ckpt_path: {key!r} in {path} is not a {kind.__name__}")
    for rank in checkpoint["sampler"]:
        if type(rank) is not dict or list(map(type, map(rank.get, ("drawn", "loaders")))) != [int, dict]:
            raise CheckpointError(f"run.resume_ckpt_path: 'sampler' in {path} holds no position in the data")
    for change in config_changes(checkpoint["config"], config, ignored):
        log.warning("changed since %s was written: %s", path.name, change)
    return checkpoint


def _compare_checksums(path: Path) -> None:
    """Raise CheckpointError if the file is damaged: torch does not check the sums that it writes."""
    with reading(path, failed="{} is damaged"), zipfile.ZipFile(path) as archive:
        lost = archive.testzip()
    if lost:
        raise CheckpointError(f"{path} is damaged: the checksum of {lost} in it is wrong")


def _second_name(path: Path, name: Path) -> None:
    """Make `name` a second name of the file `path`; at every moment it is the old file or the new one."""
    with replacing(name) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)

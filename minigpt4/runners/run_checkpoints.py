"""All that a run needs to be resumed exactly, into its checkpoints and out of them."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from minigpt4.common.config import Config
from minigpt4.common.errors import reading
from minigpt4.common.lock import Held
from minigpt4.common.rng import rng_state, set_rng_state
from minigpt4.common.schema import without_effect
from minigpt4.runners.checkpoints import CheckpointFolder, read_resumable
from minigpt4.runners.engine import Engine
from minigpt4.runners.output_folder import in_use, run_lock
from minigpt4.runners.reporting.reporter import keep_earlier_run
from minigpt4.runners.settings import RunSettings
from minigpt4.runners.state import RunState

log = logging.getLogger(__name__)

# The state of a `TrainStream` that has not given anything yet.
START_OF_DATA: dict[str, Any] = {"drawn": 0, "loaders": {}}


class RunCheckpoints:
    """Saves a run and finds where it is resumed. All ranks call its methods together.

    Args:
        settings: of the run.
        cfg: the whole configuration; it goes into checkpoints.
        engine: has the model and the optimizer.
    """

    def __init__(self, settings: RunSettings, cfg: Config, engine: Engine) -> None:
        self.settings = settings
        self.cfg = cfg
        self.engine = engine
        self.accelerator = engine.accelerator
        self.folder = CheckpointFolder(Path(settings.output_dir), settings.keep)
        self.lock = run_lock(self.folder.folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While entered, no other run writes to the output folder.

        Raises:
            ConfigError: on all ranks, if one does.
        """
        try:
            self._together(self._enter)
            yield
        finally:
            self.lock.release()

    def _enter(self) -> None:
        self.folder.folder.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()

    def _together(self, step: Callable[[], None]) -> None:
        """Have the main process do something that raises Held if another run is in the folder."""
        problem = None
        if self.accelerator.is_main_process:
            try:
                step()
            except Held as error:
                problem = str(error)
        (problem,) = broadcast_object_list([problem])
        if problem:
            raise in_use(self.folder.folder, problem)

    def begin(self) -> tuple[RunState, dict[str, Any]]:
        """Start the run, or resume it from a checkpoint, and prepare its folder.

        Returns:
            Where it stands, and where this rank's data does (`TrainStream.state`).
        """
        (path,) = broadcast_object_list([self.folder.to_resume(self.settings.resume_ckpt_path)])
        state, sampler = (RunState(), START_OF_DATA) if path is None else self._load(path)
        output = self.folder.folder
        if path is None or path.parent.resolve() != output.resolve():
            self._together(lambda: keep_earlier_run(output, self.lock))
        if self.accelerator.is_main_process:
            self.folder.remove_leftovers(self.settings.epoch_of(state.step), state.step)
        self.accelerator.wait_for_everyone()
        return state, sampler

    def save(self, state: RunState, sampler: dict[str, Any], *, best: bool) -> None:
        """Write a checkpoint.

        Args:
            state: where the run stands.
            sampler: where this rank's data does.
            best: whether no validation before was better.
        """
        ranks = gather_object([{"sampler": sampler, "rng": rng_state(self.engine.device)}])
        if self.accelerator.is_main_process:
            content = self.engine.state() | {
                "sampler": [rank["sampler"] for rank in ranks],
                "rng": [rank["rng"] for rank in ranks],
                "epoch": self.settings.epoch_of(state.step),
                "step": state.step,
                "progress": state.to_dict(),
                "config": self.cfg.to_dict(),
                "meta": self.engine.bare_model.checkpoint_meta(),
            }
            epoch_end = state.step % self.settings.iters_per_epoch == 0
            self.folder.save(content, epoch_end=epoch_end, best=best)
        # No rank leaves before it is written: a launcher ends all ranks as soon as one has left.
        self.accelerator.wait_for_everyone()

    def _load(self, path: Path) -> tuple[RunState, dict[str, Any]]:
        ignored = [f"run.{key}" for key in without_effect(type(self.settings))]
        with reading(path, failed="run.resume_ckpt_path: {} cannot be resumed: it is damaged"):
            checkpoint = read_resumable(path, self.cfg.to_dict(), ignored)
            state = RunState.from_dict(checkpoint.get("progress", {}) | {"step": checkpoint["step"]})
            self.engine.bare_model.load_checkpoint(path)
            self.engine.load_optimizer(checkpoint)
            # A rank that was not there before keeps its new generators, and starts a new order of the data.
            rank, ranks = self.accelerator.process_index, len(checkpoint["sampler"])
            if rank < ranks:
                set_rng_state(checkpoint["rng"][rank], self.engine.device)
            sampler = checkpoint["sampler"][rank if rank < ranks else 0]
        if state.skipped_in_a_row >= self.settings.max_bad_steps:
            state.skipped_in_a_row = 0  # the run had stopped for them; who resumes it has a reason
        log.info("resuming %s after step %d", path, state.step)
        return state, sampler

"""The training loop: when to step, log, validate, save and stop."""

import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from accelerate.utils import broadcast_object_list, gather_object, set_seed

from minigpt4.common.config import Config, config_changes
from minigpt4.common.device import pick_device
from minigpt4.common.errors import CheckpointError, Interrupted, TrainingError
from minigpt4.common.registry import registry
from minigpt4.common.rng import rng_state, set_rng_state
from minigpt4.common.schema import without_effect
from minigpt4.common.stop_request import StopRequest
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.mixing import TrainStream
from minigpt4.models.base_model import BaseModel
from minigpt4.models.execution import is_compile_error
from minigpt4.runners.checkpoints import LATEST, CheckpointFolder
from minigpt4.runners.engine import Engine, Outcome
from minigpt4.runners.evaluation import Evaluator, StoppedEvaluation, check_splits
from minigpt4.runners.micro_batches import draw_groups, group_sizes
from minigpt4.runners.reporting.reporter import Reporter, keep_earlier_run
from minigpt4.runners.reporting.summary import start_summary
from minigpt4.runners.resources.advice import (
    disk_full_error,
    is_disk_full,
    is_out_of_memory,
    out_of_memory_error,
)
from minigpt4.runners.resources.preflight import preflight
from minigpt4.runners.settings import RunSettings
from minigpt4.runners.state import RunState, Window
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record
from minigpt4.weights.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

GO_ON = "the same command with --resume auto goes on from there"


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains a model on datasets, as a task says.

    Args:
        cfg: the whole configuration; it goes into checkpoints.
        task: what a step and an evaluation are.
        model: its trainable parameters are trained.
        datasets: name -> (builder, datasets by split), as `BaseTask.build_datasets` gives them.
        job_id: what the original's train.py gives; everything is written to `run.output_dir` itself.
        settings: the section `run:`; read from `cfg` where it is not given.
    """

    SETTINGS: ClassVar[type] = RunSettings

    def __init__(
        self,
        cfg: Config,
        task: BaseTask,
        model: BaseModel,
        datasets: Datasets,
        job_id: str = "",
        settings: RunSettings | None = None,
    ) -> None:
        self.cfg = cfg
        self.settings: RunSettings = settings or cfg.run_settings()
        self.datasets = datasets
        if not self.settings.evaluate:
            device = pick_device(self.settings.device)
            self.counted_memory = preflight(model, datasets, self.settings, device)
        self.engine = Engine(self.settings, task, model)
        self.accelerator = self.engine.accelerator
        self.task = task
        self.stop = StopRequest()
        self.evaluator = Evaluator(self.settings, task, datasets, self.engine, self.stop)
        self.output_dir = Path(self.settings.output_dir)
        self.checkpoints = CheckpointFolder(self.output_dir, self.settings.keep)
        self.reporter = Reporter(self.settings, self.accelerator, cfg.to_dict())
        self.state = RunState()
        self.sampler_state: dict[str, Any] = {"drawn": 0, "loaders": {}}
        # What any rank asked for in the updates known so far: to stop, and to save because it is time.
        self.asked = [False, False]
        # Why it is given up, where no update comes to anything.
        self.hopeless: TrainingError | None = None
        self.saved_at = self.since = time.monotonic()
        self.settings.warn_about_launch(self.accelerator.num_processes)

    @property
    def bare_model(self) -> BaseModel:
        """The model without what accelerate wraps around it."""
        return self.engine.bare_model

    def train(self) -> dict[str, Any]:
        """Train, validate, evaluate, and leave checkpoints, log, plots and report in `output_dir`.

        Returns:
            What `report.json` holds.

        Raises:
            Interrupted: if it was asked to stop; everything is saved.
            TrainingError: if no update comes to a finite loss any more; everything is saved. Or if the disk
                is full; what was saved before still is.
        """
        set_seed(self.settings.seed, device_specific=True)
        check_splits(self.datasets, self.settings)
        with self.stop:
            try:
                return self._train()
            except StoppedEvaluation:
                raise self._interrupted() from None
            except (OSError, RuntimeError, MemoryError) as error:
                if self.stop and is_compile_error(error):
                    name = signal.Signals(self.stop.signal).name
                    raise Interrupted(
                        f"stopped by {name} while torch compiled the model; what was saved before still is, "
                        + GO_ON,
                        self.stop.signal,
                    ) from None
                if is_disk_full(error):
                    raise disk_full_error(error, self.output_dir) from error
                if is_out_of_memory(error) and not self.settings.evaluate:
                    batch_size, accumulated = self.counted_memory.batch_size, self.settings.accum_grad_iters
                    raise out_of_memory_error(
                        error, self.bare_model, batch_size, accumulated, self.engine.device
                    ) from error
                raise

    def _train(self) -> dict[str, Any]:
        splits = self.settings.test_splits
        if self.settings.evaluate:
            metrics, records = self._evaluate()
            return {"samples": len(records), **metrics.to_json()}
        self._begin()
        if self.accelerator.is_main_process:
            print(self._summary())
        with self._train_batches() as batches:
            if splits and not self.state.before:
                metrics, records = self._evaluate()
                self.state.before = {"samples": len(records), **metrics.to_json()}
            self.reporter.begin(self.state)
            with closing(self.reporter):
                self._train_steps(batches)
            bad = self._bad(batches)
        metrics, records = self._evaluate() if splits else (None, [])
        trained = sum(p.numel() for p in self.bare_model.parameters() if p.requires_grad)
        more = {"trainable_parameters": trained, "bad_samples": dict(bad)}
        return self.reporter.end(self.state, metrics, records, more)

    def _summary(self) -> str:
        return start_summary(
            self.bare_model,
            self.datasets,
            self.settings,
            self.engine.device,
            self.accelerator.num_processes,
            self.counted_memory,
            precision=self.accelerator.mixed_precision,
            start_step=self.state.step,
        )

    def _evaluate(self) -> tuple[Metrics, list[Record]]:
        """Evaluate all of `test_splits`."""
        records = self.evaluator.records(self.settings.test_splits, predict_all=True)
        metrics = self.task.summarize(records)
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.values.items())
        log.info("evaluation of %d samples: %s", len(records), values)
        return metrics, records

    def _begin(self) -> None:
        """Find where the run begins or goes on, and ready its folder."""
        (path,) = broadcast_object_list([self.checkpoints.to_resume(self.settings.resume_ckpt_path)])
        if path is not None:
            self._resume(path)
        if self.accelerator.is_main_process:
            if path is None or path.parent.resolve() != self.output_dir.resolve():
                keep_earlier_run(self.output_dir)
            self.output_dir.mkdir(parents=True, exist_ok=True)
            self.checkpoints.remove_leftovers(self.settings.epoch_of(self.state.step), self.state.step)
        self.accelerator.wait_for_everyone()

    def _train_batches(self) -> TrainStream:
        """All that is trained on, from where the checkpoint left it."""
        s, accelerator = self.settings, self.accelerator
        stream = TrainStream.of(
            self.datasets,
            s.train_splits,
            s.seed,
            self.sampler_state,
            max_bad_fraction=s.max_bad_fraction,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            workers=s.num_workers,
            pin_memory=self.engine.device.type == "cuda",
        )
        if accelerator.is_main_process:
            stream.describe(self.sampler_state["loaders"])
        return stream

    def _train_steps(self, batches: TrainStream) -> None:
        s, state = self.settings, self.state
        self.engine.model.train()
        if state.owes_validation:
            self._pause(state.step, batches)
        sizes = group_sizes(state.step, s.max_epoch, s.iters_per_epoch, s.accum_grad_iters)
        launched = None
        self.saved_at = self.since = time.monotonic()
        for group in draw_groups(batches, self.bare_model.prepare, sizes, self.engine.device):
            begun, state.step = state.step, state.step + len(group.batches)
            outcome = self.engine.update(group, state.step, self._wishes())
            # What the update before came to is read while this one computes: the device never waits.
            if launched is not None:
                self._settle(launched)
            launched = outcome
            if self.accelerator.num_processes == 1:
                self._ask(self._wishes())  # a lone process need not wait until it hears of its own
            if any(self.asked) or any(
                map(self._crossed(begun), (0, s.log_freq, s.save_every, s.valid_every))
            ):
                self._settle(launched)
                launched = None
                self._pause(begun, batches)

    def _wishes(self) -> list[bool]:
        """Whether this rank wants to stop, and (the main one's clock counts) to save."""
        minutes = (time.monotonic() - self.saved_at) / 60
        timed = 0 < self.settings.save_minutes <= minutes
        return [bool(self.stop), timed and self.accelerator.is_main_process]

    def _crossed(self, begun: int) -> Callable[[int], bool]:
        """Says whether the steps after `begun` reached a multiple of so many (0: an epoch's end)."""
        end, epoch = self.state.step, self.settings.iters_per_epoch
        return lambda every: end // (every or epoch) > begun // (every or epoch)

    def _settle(self, outcome: Outcome) -> None:
        """Count an update, and note one that came to nothing finite."""
        result = outcome.read()
        now = time.monotonic()
        self.state.count(result, now - self.since)
        self.since = now
        self._ask(result.wishes)
        if not result.finite:
            self.reporter.skipped(outcome.step, result, gather_object(outcome.group.keys))
            self._give_up_after(outcome.step)
        self.reporter.update(self.state, outcome, result)

    def _ask(self, wishes: Sequence[bool]) -> None:
        self.asked = [asked or wish for asked, wish in zip(self.asked, wishes, strict=True)]

    def _give_up_after(self, step: int) -> None:
        """Have the run stop if the update that ended with `step` was one bad one too many."""
        if self.state.skipped_in_a_row >= self.settings.max_bad_steps and self.hopeless is None:
            self.asked[0] = True
            self.hopeless = TrainingError(
                f"{self.state.skipped_in_a_row} updates in a row had no finite loss or gradient, the last at "
                f"step {step}. Their samples are in {self.reporter.skipped_log.path}; {GO_ON}. A smaller "
                "run.init_lr, another model.llm_precision, or the data may be what is wrong"
            )

    def _pause(self, begun: int, batches: TrainStream) -> None:
        """Between two updates: log, validate, save, and stop if that was asked for."""
        crossed, state = self._crossed(begun), self.state
        stop, save = self.asked
        if crossed(0) or crossed(self.settings.log_freq):
            self.reporter.line(self.state, self._bad(batches))
            state.window = Window()
        if self.settings.valid_splits and crossed(self.settings.valid_every):
            state.owes_validation = True
        best = validated = False
        if state.owes_validation and not stop:
            try:
                best, validated = self._validate(), True
            except StoppedEvaluation:
                stop = True
        if stop or save or validated or crossed(0) or crossed(self.settings.save_every):
            self._save(batches, best)
        if stop:
            raise self._interrupted()
        self.asked = [False, False]
        self.since = time.monotonic()

    def _validate(self) -> bool:
        """Evaluate `valid_splits` -> whether the metric that decides is the best so far."""
        records = self.evaluator.records(self.settings.valid_splits, predict_all=False)
        metrics = self.task.summarize(records)
        best = metrics.improve_on(self.state.best_of(metrics.best))
        if best:
            self.state.best_metric, self.state.best_step = metrics.best, self.state.step
            self.state.best_value = metrics.values[metrics.best]
        self.state.owes_validation = False
        self.reporter.validation(self.state, metrics, records)
        return best

    def _bad(self, batches: TrainStream) -> Counter[str]:
        """What was skipped so far on all ranks, by reason."""
        return sum(gather_object([batches.bad()]), Counter())

    def _interrupted(self) -> TrainingError | Interrupted:
        """Why the run stops here, and how to go on."""
        if self.hopeless is not None:
            return self.hopeless
        # A rank that was not asked itself stops with the one that was.
        number = self.stop.signal or signal.SIGTERM
        latest = self.output_dir / LATEST
        saved = latest.exists() and not self.settings.evaluate
        return Interrupted(
            f"stopped by {signal.Signals(number).name} after step {self.state.step}; "
            + (f"{latest} is saved, {GO_ON}" if saved else "nothing was trained yet"),
            number,
        )

    def _save(self, batches: TrainStream, best: bool) -> None:
        # What each rank has of its own. Every rank must come here: they wait for each other.
        ranks = gather_object([{"sampler": batches.state(), "rng": rng_state(self.engine.device)}])
        if self.accelerator.is_main_process:
            state = self.engine.state() | {
                "sampler": [rank["sampler"] for rank in ranks],
                "rng": [rank["rng"] for rank in ranks],
                "epoch": self.settings.epoch_of(self.state.step),
                "step": self.state.step,
                "progress": self.state.to_dict(),
                "config": self.cfg.to_dict(),
                "meta": self.bare_model.checkpoint_meta(),
            }
            epoch_end = self.state.step % self.settings.iters_per_epoch == 0
            self.checkpoints.save(state, epoch_end=epoch_end, best=best)
        # Nobody leaves before it is there: a launcher ends all ranks as soon as one has left.
        self.accelerator.wait_for_everyone()
        self.saved_at = time.monotonic()

    def _resume(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        for key in ("optimizer", "step", "rng", "sampler", "config"):
            if key not in checkpoint:
                raise CheckpointError(f"run.resume_ckpt_path: {path} has no {key!r}, it cannot be resumed")
        ignored = [f"run.{key}" for key in without_effect(type(self.settings))]
        for change in config_changes(checkpoint["config"], self.cfg.to_dict(), ignored):
            log.warning("not as it was when %s was written: %s", path.name, change)
        self.bare_model.load_checkpoint(path)
        self.engine.load_optimizer(checkpoint)
        # A rank that was not there before keeps its new generators, and begins a new order of the data.
        rank, ranks = self.accelerator.process_index, len(checkpoint["sampler"])
        self.sampler_state = checkpoint["sampler"][rank if rank < ranks else 0]
        if rank < ranks:
            set_rng_state(checkpoint["rng"][rank], self.engine.device)
        self.state = RunState.from_dict(checkpoint.get("progress", {}) | {"step": checkpoint["step"]})
        if self.state.skipped_in_a_row >= self.settings.max_bad_steps:
            self.state.skipped_in_a_row = 0  # the run had stopped for them; whoever goes on has a reason
        log.info("resuming %s after step %d", path, self.state.step)

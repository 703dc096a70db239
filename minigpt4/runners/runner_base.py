"""The training loop: when to step, log, validate, save and stop."""

import logging
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from accelerate.utils import gather_object, set_seed

from minigpt4.common.config import Config
from minigpt4.common.device import is_out_of_memory, pick_device
from minigpt4.common.errors import Interrupted, TrainingError, UserError
from minigpt4.common.registry import registry
from minigpt4.common.stop_request import StoppedWaiting, StopRequest
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.mixing import TrainStream
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners import endings
from minigpt4.runners.checkpoints import LATEST
from minigpt4.runners.engine import Engine, PendingUpdate, Requests
from minigpt4.runners.evaluation import Evaluator, StoppedEvaluation, check_splits, warn_if_unknown_texts
from minigpt4.runners.micro_batches import accumulation_counts, draw_micro_batches
from minigpt4.runners.reporting.reporter import Reporter
from minigpt4.runners.reporting.summary import start_summary
from minigpt4.runners.resources import advice
from minigpt4.runners.resources.preflight import preflight
from minigpt4.runners.run_checkpoints import START_OF_DATA, RunCheckpoints
from minigpt4.runners.settings import RunSettings
from minigpt4.runners.state import RunState, Window
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Metrics, Record

log = logging.getLogger(__name__)


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains a model on datasets, as a task says.

    Args:
        cfg: the whole configuration; it goes into checkpoints.
        task: defines a step and an evaluation.
        model: its trainable parameters are trained.
        datasets: name -> (builder, datasets by split), from `BaseTask.build_datasets`.
        job_id: of the original's train.py; not used.
        settings: the section `run:`; by default from `cfg`.
    """

    SETTINGS: ClassVar[type] = RunSettings

    def __init__(
        self,
        cfg: Config,
        task: BaseTask,
        model: MiniGPTBase,
        datasets: Datasets,
        job_id: str = "",
        settings: RunSettings | None = None,
    ) -> None:
        self.cfg = cfg
        self.settings: RunSettings = settings or cfg.run_settings()
        self.datasets = datasets
        if not self.settings.evaluate:
            self.counted_memory = preflight(model, datasets, self.settings, pick_device(self.settings.device))
        self.engine = Engine(self.settings, task, model)
        self.accelerator = self.engine.accelerator
        self.task = task
        self.stop = StopRequest()
        self.evaluator = Evaluator(self.settings, task, datasets, self.engine, self.stop)
        self.output_dir = Path(self.settings.output_dir)
        self.checkpoints = RunCheckpoints(self.settings, cfg, self.engine)
        self.reporter = Reporter(self.settings, self.accelerator, cfg.to_dict())
        self.state, self.sampler_state = RunState(), START_OF_DATA
        self.pending: PendingUpdate | None = None  # the last update, until its result is read
        self.requested = Requests()  # by any rank, in the updates whose results are known
        self.failure: TrainingError | None = None  # why training cannot go on
        self.saved_at = self.since = time.monotonic()
        self.settings.warn_about_launch(self.accelerator.num_processes)

    @property
    def bare_model(self) -> MiniGPTBase:
        """The model without accelerate's wrapper."""
        return self.engine.bare_model

    def train(self) -> dict[str, Any]:
        """Train, validate, evaluate, and leave checkpoints, log, plots and report in `output_dir`.

        Returns:
            The content of `report.json`.

        Raises:
            Interrupted: if it was asked to stop; everything is saved.
            TrainingError: if no update has a finite loss any more, or disk or memory is full.
        """
        set_seed(self.settings.seed, device_specific=True)
        check_splits(self.datasets, self.settings)
        with self.stop:
            try:
                return self._train()
            except StoppedEvaluation:
                raise self._interrupted() from None
            except (OSError, RuntimeError, MemoryError) as error:
                explanation = self._explain(error)
                if explanation is None:
                    raise
                raise explanation from error

    def _explain(self, error: OSError | RuntimeError | MemoryError) -> UserError | None:
        """What to tell the user of an error that is not a bug; None for others."""
        if isinstance(error, OSError):
            return advice.disk_error(error, self.output_dir)
        if is_out_of_memory(error) and not self.settings.evaluate:
            batch_size, accumulated = self.counted_memory.batch_size, self.settings.accum_grad_iters
            device = self.engine.device
            return advice.out_of_memory_error(error, self.bare_model, batch_size, accumulated, device)
        return endings.interrupted_compiler(error, self.stop.signal)

    def _train(self) -> dict[str, Any]:
        if self.settings.evaluate:
            metrics, records = self._evaluate(drawn=False)
            return {"samples": len(records), **metrics.to_json()}
        with self.checkpoints.alone():
            return self._train_alone()

    def _train_alone(self) -> dict[str, Any]:
        self.state, self.sampler_state = self.checkpoints.begin()
        if self.accelerator.is_main_process:
            print(self._summary())
        with self._train_batches() as batches:
            if self.settings.test_splits and not self.state.before:
                metrics, records = self._evaluate(drawn=False)
                self.state.before = {"samples": len(records), **metrics.to_json()}
                warn_if_unknown_texts(metrics.values, self.bare_model.language.config.vocab_size)
            self.reporter.begin(self.state)
            with closing(self.reporter):
                self._train_steps(batches)
            bad = self._bad(batches)
        metrics, records = self._evaluate(drawn=True) if self.settings.test_splits else (None, [])
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

    def _evaluate(self, *, drawn: bool) -> tuple[Metrics, list[Record]]:
        """Evaluate all of `test_splits`."""
        log.info("evaluating %s", ", ".join(self.settings.test_splits))
        metrics, records = self.evaluator.evaluate(self.settings.test_splits, predict_all=True, drawn=drawn)
        values = ", ".join(f"{name} {value:.4g}" for name, value in metrics.values.items())
        log.info("evaluation of %d samples: %s", len(records), values)
        return metrics, records

    def _train_batches(self) -> TrainStream:
        """All data that is trained on, from where the checkpoint left it."""
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
            sort_window=s.sort_window,
            pin_memory=self.engine.device.type == "cuda",
            prompts=self.bare_model.prompts,
        )
        if accelerator.is_main_process:
            stream.describe(self.sampler_state["loaders"])
        return stream

    def _train_steps(self, batches: TrainStream) -> None:
        """Train to the end; what was asked for in between is done in between."""
        s, state = self.settings, self.state
        self.engine.model.train()
        self.sampler_state = batches.state()
        if state.owes_validation:
            self._pause(state.step, batches)
        # Alone, a process can stop while it waits for data. Others would wait for it in their next update.
        alone = self.accelerator.num_processes == 1
        drawn = draw_micro_batches(
            self.stop.interrupting(batches) if alone else batches,
            self.bare_model.prepare,
            accumulation_counts(state.step, s.max_epoch, s.iters_per_epoch, s.accum_grad_iters),
            self.engine.device,
        )
        self.saved_at = self.since = time.monotonic()
        try:
            for micro_batches in drawn:
                self.sampler_state = batches.state()
                begun, state.step = state.step, state.step + len(micro_batches.batches)
                update = self.engine.update(micro_batches, state.step, self._own_requests())
                # The result of the update before is read while this one is computed: the device never waits.
                self._settle()
                self.pending = update
                if alone:
                    self.requested |= self._own_requests()  # already known, before the result is
                periods = (s.iters_per_epoch, s.log_freq, s.save_every, s.valid_every)
                if any(self.requested) or any(self._passed(every, begun) for every in periods):
                    self._settle()
                    self._pause(begun, batches)
        except StoppedWaiting:
            self._settle()
            if state.step:
                self._save(best=False)
            raise self._interrupted() from None

    def _own_requests(self) -> Requests:
        """What this rank wants; for the time between two checkpoints, the main one's clock counts."""
        minutes = (time.monotonic() - self.saved_at) / 60
        save = 0 < self.settings.save_minutes <= minutes and self.accelerator.is_main_process
        return Requests(bool(self.stop), save)

    def _passed(self, every: int, begun: int) -> bool:
        """Whether the steps after `begun` reached a multiple of `every`; 0 is never reached."""
        return every > 0 and self.state.step // every > begun // every

    def _settle(self) -> None:
        """Count the pending update, if there is one, and report if it was skipped."""
        update, self.pending = self.pending, None
        if update is None:
            return
        result, now = update.result(), time.monotonic()
        self.state.count(result, now - self.since)
        self.since = now
        self.requested |= result.requests
        if not result.finite:
            self.reporter.skipped(update.step, result, gather_object(update.micro_batches.keys))
            self._stop_after_too_many_skipped(update.step)
        self.reporter.update(self.state, update, result)

    def _stop_after_too_many_skipped(self, step: int) -> None:
        in_a_row = self.state.skipped_in_a_row
        if in_a_row >= self.settings.max_bad_steps and self.failure is None:
            self.requested |= Requests(stop=True)
            self.failure = endings.too_many_skipped(in_a_row, step, self.reporter.skipped_log.path)

    def _pause(self, begun: int, batches: TrainStream) -> None:
        """Between two updates: log, validate, save, and stop if that was requested."""
        s, state, stop = self.settings, self.state, self.requested.stop
        epoch_end = self._passed(s.iters_per_epoch, begun)
        if epoch_end or self._passed(s.log_freq, begun):
            self.reporter.line(state, self._bad(batches))
            state.window = Window()
        if s.valid_splits and self._passed(s.valid_every or s.iters_per_epoch, begun):
            state.owes_validation = True
        best = validated = False
        if state.owes_validation and not stop:
            try:
                best, validated = self._validate(), True
            except StoppedEvaluation:
                stop = True
        if stop or self.requested.save or validated or epoch_end or self._passed(s.save_every, begun):
            self._save(best)
        if stop:
            raise self._interrupted()
        self.requested = Requests()
        self.since = time.monotonic()

    def _validate(self) -> bool:
        """Evaluate `valid_splits` -> whether the metric that decides is the best so far."""
        s = self.settings
        metrics, records = self.evaluator.evaluate(s.valid_splits, predict_all=False, also=s.valid_tasks)
        best = metrics.improve_on(self.state.best_of(metrics.best))
        if best:
            self.state.best_metric, self.state.best_step = metrics.best, self.state.step
            self.state.best_value = metrics.values[metrics.best]
        self.state.owes_validation = False
        self.reporter.validation(self.state, metrics, records)
        return best

    def _bad(self, batches: TrainStream) -> Counter[str]:
        """Skipped samples of all ranks, by reason."""
        return sum(gather_object([batches.bad()]), Counter())

    def _interrupted(self) -> TrainingError | Interrupted:
        """Why the run stops here, and how to resume it."""
        if self.failure is not None:
            return self.failure
        latest = self.output_dir / LATEST
        checkpoint = latest if latest.exists() and not self.settings.evaluate else None
        number = self.stop.signal or signal.SIGTERM  # a rank that got none stops with the one that did
        return endings.interrupted(number, self.state.step, checkpoint)

    def _save(self, best: bool) -> None:
        self.checkpoints.save(self.state, self.sampler_state, best=best)
        self.saved_at = time.monotonic()

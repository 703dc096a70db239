"""Held-out splits, evaluated by the task, with the work divided over the ranks."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from accelerate.utils import gather_object

from minigpt4.common.errors import ConfigError, DataError, nearest
from minigpt4.common.rng import undisturbed
from minigpt4.common.stop_request import StoppedWaiting, StopRequest
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.stream import Reading
from minigpt4.runners.engine import Engine
from minigpt4.runners.reporting.samples import SHOWN, add_pictures, to_show
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.evaluations import Evaluation, plan, summarize
from minigpt4.tasks.records import Limits, Metrics, Record

log = logging.getLogger(__name__)


class StoppedEvaluation(Exception):
    """A request to stop arrived during an evaluation, and it was abandoned."""


def check_splits(datasets: Datasets, settings: RunSettings) -> None:
    """Raise ConfigError if a batch size is not set, or a split that `run:` names is missing.

    Every data set must have those that are trained on; held-out ones may be of some data sets alone.
    """
    for builder, _ in datasets.values():
        _ = builder.batch_size
    check_train_splits(datasets, settings)
    there = list(dict.fromkeys(split for _, by_split in datasets.values() for split in by_split))
    for key in ("valid_splits", "test_splits"):
        for split in getattr(settings, key):
            if split not in there:
                found = f"{nearest(split, there)} (there: {', '.join(there)})"
                raise ConfigError(f"run.{key}: no data set has a split {split!r}{found}")


def check_train_splits(datasets: Datasets, settings: RunSettings) -> None:
    """Raise ConfigError if a data set lacks a split that is trained on."""
    for name, (_, by_split) in datasets.items():
        for split in settings.train_splits:
            if split not in by_split:
                raise ConfigError(f"run.train_splits: datasets.{name} has no split {split!r}")


def warn_if_unknown_texts(values: Mapping[str, float], vocabulary: int) -> None:
    """Warn if held-out texts are less likely to an untrained model than to random weights.

    The tiny language models know a drawn world; on top of them, nothing learns to write about another.

    Args:
        values: of the evaluation before training, with or without a `loss` in nats per token.
        vocabulary: of the language model, in tokens.
    """
    chance = math.log(vocabulary)
    if values.get("loss", 0) > chance:
        log.warning(
            "before training, a token of the held-out texts costs %.2f nats, with random weights %.2f: "
            "model.llama_model does not know such texts, and a projection in front of it cannot teach it",
            values["loss"],
            chance,
        )


class Evaluator:
    """Evaluates whole splits, and leaves training's random state as it was.

    Args:
        settings, task, datasets, engine: the runner's.
        stop: where requests to stop arrive.
    """

    def __init__(
        self, settings: RunSettings, task: BaseTask, datasets: Datasets, engine: Engine, stop: StopRequest
    ) -> None:
        self.settings = settings
        self.task = task
        self.datasets = datasets
        self.engine = engine
        self.stop = stop

    def evaluate(
        self, splits: Sequence[str], *, predict_all: bool, drawn: bool = True, also: Sequence[str] = ()
    ) -> tuple[Metrics, list[Record]]:
        """What the splits come to, and a record per sample, from all ranks; some hold their picture.

        Args:
            splits: names.
            predict_all: False asks for predictions only of the first records, which have the pictures then.
            drawn: whether the records to show hold their pictures.
            also: tasks that all of the data is evaluated as, too.

        Raises:
            StoppedEvaluation: on all ranks, if one was asked to stop.
            DataError: on all ranks, if an evaluation has no sample.
        """
        evaluations = plan(self.datasets, splits, self.task, also)
        first = -(-SHOWN // max(len(evaluations), 1)) if drawn and not predict_all else 0
        made: list[list[Record]] = []
        with undisturbed(self.engine.device), self._stopped_at_once():
            made = [self._records(one, first, predict_all) for one in evaluations]
            if drawn and predict_all:
                for one, own in zip(evaluations, made, strict=True):
                    self._add_pictures(one, own, len(evaluations))
        if any(gather_object([self._gives_up()])):
            raise StoppedEvaluation
        idle = self.engine.sharded and not self.engine.accelerator.is_main_process
        records = [gather_object([] if idle else own) for own in made]
        for one, own in zip(evaluations, records, strict=True):
            if not own:
                parts = ", ".join(".".join(part) for part in one.parts)
                raise DataError(f"no samples to evaluate in {parts}")
        return summarize(evaluations, records), [record for own in records for record in own]

    def _records(self, evaluation: Evaluation, pictures: int, predict_all: bool) -> list[Record]:
        """This rank's records of one evaluation."""
        model, is_first = self.engine.bare_model, self._reading().reader == 0
        records: list[Record] = []
        for part in evaluation.parts:
            left = max(pictures - len(records), 0) if is_first else 0
            limits = Limits(predictions=None if predict_all else left, pictures=left)
            records += evaluation.task.evaluate(model, self._batches(*part), limits)
        return records

    def _add_pictures(self, evaluation: Evaluation, records: list[Record], parts: int) -> None:
        """Give this rank's records to show their pictures; which of all ranks' are shown is decided later."""
        wanted = {number: records[number] for number in to_show(records, parts)}
        again = chain.from_iterable(self._batches(*part) for part in evaluation.parts)
        add_pictures(wanted, again, self.engine.bare_model.to_pixels)

    def _batches(self, name: str, split: str) -> BatchStream:
        return BatchStream(
            self.datasets[name][1][split],
            self.settings.batch_size_eval,
            self.settings.max_bad_fraction,
            reading=self._reading(),
            prompts=self.engine.bare_model.prompts,
        )

    def _reading(self) -> Reading:
        # Ranks that share a language model have to call it together, so each of them evaluates everything.
        accelerator, shared = self.engine.accelerator, self.engine.sharded
        rank, ranks = (0, 1) if shared else (accelerator.process_index, accelerator.num_processes)
        return Reading(reader=rank, readers=ranks)

    def _gives_up(self) -> bool:
        """Whether this rank skips the rest. Where ranks have to keep in step, it goes on to the end."""
        return bool(self.stop) and not self.engine.sharded

    @contextlib.contextmanager
    def _stopped_at_once(self) -> Iterator[None]:
        """While entered, a request to stop ends the block: a batch of answers may take minutes."""
        if self.engine.sharded:
            yield
            return
        with contextlib.suppress(StoppedWaiting), self.stop.given_up():
            yield

"""Held-out splits, evaluated by the task, with the work divided over the ranks."""

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from accelerate.utils import gather_object

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.rng import undisturbed
from minigpt4.common.stop_request import StoppedWaiting, StopRequest
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.stream import Reading
from minigpt4.prompts.sample import Batch
from minigpt4.runners.engine import Engine
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Limits, Record

log = logging.getLogger(__name__)

# As many as the grid of samples shows.
PICTURES = 16


class StoppedEvaluation(Exception):
    """A request to stop arrived during an evaluation, and it was abandoned."""


def check_splits(datasets: Datasets, settings: RunSettings) -> None:
    """Raise ConfigError if a data set lacks a split that `run:` names, or a batch size is not set."""
    for builder, _ in datasets.values():
        _ = builder.batch_size
    wanted = {
        "train_splits": settings.train_splits,
        "valid_splits": settings.valid_splits,
        "test_splits": settings.test_splits,
    }
    for key, names in wanted.items():
        for name, (_, splits) in datasets.items():
            for split in names:
                if split not in splits:
                    raise ConfigError(f"run.{key}: datasets.{name} has no split {split!r}")


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

    def records(self, splits: Sequence[str], *, predict_all: bool) -> list[Record]:
        """A record per sample, from all ranks; the first of them hold their picture.

        Args:
            splits: names.
            predict_all: False asks for predictions only where there is a picture to show with them.

        Raises:
            StoppedEvaluation: on all ranks, if one was asked to stop.
            DataError: on all ranks, if the splits have no sample.
        """
        accelerator = self.engine.accelerator
        # Ranks that share a language model have to call it together, so each of them evaluates everything.
        shared = self.engine.sharded
        rank, ranks = (0, 1) if shared else (accelerator.process_index, accelerator.num_processes)
        records: list[Record] = []
        with undisturbed(self.engine.device):
            for _, by_split in self.datasets.values():
                for split in splits:
                    batches = BatchStream(
                        by_split[split],
                        self.settings.batch_size_eval,
                        self.settings.max_bad_fraction,
                        reading=Reading(reader=rank, readers=ranks),
                        prompts=self.engine.bare_model.prompts,
                    )
                    pictures = max(PICTURES - len(records), 0) if rank == 0 else 0
                    limits = Limits(predictions=None if predict_all else pictures, pictures=pictures)
                    records += self.task.evaluate(
                        self.engine.bare_model, self._until_stopped(batches), limits
                    )
        if any(gather_object([self._gives_up()])):
            raise StoppedEvaluation
        records = gather_object([] if shared and not accelerator.is_main_process else records)
        if not records:
            raise DataError(f"no samples to evaluate in the splits {', '.join(splits)}")
        return records

    def _gives_up(self) -> bool:
        """Whether this rank skips the rest. Where ranks have to keep in step, it goes on to the end."""
        return bool(self.stop) and not self.engine.sharded

    def _until_stopped(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        if self.engine.sharded:
            yield from batches
            return
        with contextlib.suppress(StoppedWaiting):
            yield from self.stop.interrupting(iter(batches))

"""One evaluation: model, data, and what is done for each of its parts."""

import argparse
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

from minigpt4.commands.evaluated_data import load
from minigpt4.commands.evaluated_parts import Journal, Key, in_order
from minigpt4.commands.evaluation_report import Results, report
from minigpt4.common.config import Config
from minigpt4.common.parts import Share
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.prompts.sample import Batch
from minigpt4.runners.reporting.samples import add_pictures
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.controls import BACKWARDS, GREY, MIXED, OTHERS
from minigpt4.tasks.evaluations import Evaluation, plan
from minigpt4.tasks.records import Limits, Record

log = logging.getLogger("evaluate")


@dataclass(frozen=True)
class Work:
    """What an evaluation does.

    Attributes:
        args: the command line.
        cfg: the whole configuration.
        task: builds the model.
        datasets: name -> (builder, data sets by split).
        evaluations: what is evaluated.
        share: of this process.
    """

    args: argparse.Namespace
    cfg: Config
    task: BaseTask
    datasets: Datasets
    evaluations: list[Evaluation]
    share: Share

    @classmethod
    def of(
        cls,
        args: argparse.Namespace,
        cfg: Config,
        task: BaseTask,
        datasets: Datasets,
        splits: Sequence[str],
        share: Share,
    ) -> "Work":
        return cls(args, cfg, task, datasets, plan(datasets, splits, task), share)

    @property
    def controls(self) -> list[str]:
        """What is done to the pictures; the first is what is reported. A grey picture is in no cache."""
        if not self.args.controls:
            return [OTHERS if self.args.shuffled else ""]
        builders = [builder for builder, _ in self.datasets.values()]
        cached = any(builder.token_shape() is not None for builder in builders)
        videos = any(builder.has_videos for builder in builders)
        return ["", OTHERS, *([] if cached else [GREY]), *([BACKWARDS, MIXED] if videos else [])]

    def fill(self, journal: Journal) -> Journal:
        """Make all records of this share that the journal does not hold yet."""
        wanted = [
            (evaluation, (control, *part))
            for control in self.controls
            for evaluation in self.evaluations
            if evaluation.has(control)
            for part in evaluation.parts
            if (control, *part) not in journal.finished
        ]
        if wanted:
            log.info("building the model")
            model = self.task.build_model(self.cfg, device=self.args.device, datasets=self.datasets)
        for evaluation, key in wanted:
            control, name, split = key
            done = len(journal.batches.get(key, ()))
            log.info("evaluating %s.%s%s", name, split, f" ({control})" if control else "")
            limits = Limits(control=control, total=self.args.limit if self.share.count == 1 else None)
            with self.batches(name, split, model.prompts) as batches:
                skipped: list[tuple[str, str]] = []
                mine = _noting(islice(self.share.take(batches), done, None), skipped)
                for records in evaluation.task.evaluate_batches(model, mine, limits):
                    journal.add(key, records, [*skipped])
                    skipped.clear()
            journal.finish(key)
        return journal

    def batches(self, name: str, split: str, prompts: Any) -> Any:
        """The batches of a split of a data set, while the block is entered."""
        builder, by_split = self.datasets[name]
        of_entry = builder.settings.batch_size if self.cfg.evaluation_datasets_cfg else None
        size = self.args.batch_size or of_entry or self.cfg.run_value("batch_size_eval")
        return load(by_split[split], size, self.args, self.cfg, prompts)

    def report(self, parts: Sequence[Journal], head: dict[str, Any]) -> None:
        """Write and print what the records of all shares come to."""

        def records(control: str, evaluation: Evaluation) -> list[Any]:
            if not evaluation.has(control):
                return []
            keys: list[Key] = [(control, *part) for part in evaluation.parts]
            return list(chain.from_iterable(in_order(batches, key) for key in keys))

        batches = [part.batches for part in parts]
        skipped = [
            {"data": f"{name}.{split}", "sample": sample, "reason": reason}
            for part in parts
            for (control, name, split), own in part.skipped.items()
            for sample, reason in own
            if control == self.controls[0]
        ]

        by_control = {
            control: [records(control, one) for one in self.evaluations] for control in self.controls
        }
        results = Results(self.evaluations, by_control, self._published(), skipped)
        report(results, head, self.args.out, self.pictures)

    def _published(self) -> dict[str, float]:
        """What MiniGPT-v2's authors report, by the name of the metric here."""
        published = {}
        for one in self.evaluations:
            for name, split in one.parts if one.name else ():
                values = self.datasets[name][0].published()
                if split in values:
                    published[f"{one.name}_accuracy"] = values[split]
        return published

    def pictures(self, evaluation: Evaluation, wanted: Mapping[int, Record]) -> None:
        """Give some records of an evaluation, by number, their pictures.

        The data is read again: records are written without pictures. Cached features and pictures that are
        normalised already give none.
        """

        def again() -> Generator[Batch, None, None]:
            for name, split in evaluation.parts:
                with self.batches(name, split, None) as batches:
                    yield from batches

        with closing(again()) as batches:
            add_pictures(wanted, batches, _pixels)


def _noting(batches: Iterable[Any], skipped: list[tuple[str, str]]) -> Iterator[Any]:
    """The batches; what was skipped before each is appended first."""
    for batch in batches:
        skipped += batch.skipped
        yield batch


def _pixels(image: torch.Tensor) -> np.ndarray | None:
    """An image [3, H, W] as an array; None for normalised ones."""
    return image.permute(1, 2, 0).numpy() if image.dtype == torch.uint8 else None

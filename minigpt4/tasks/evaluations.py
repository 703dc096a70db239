"""What is evaluated together: the splits of data sets, each as the task that its data set names."""

from collections.abc import Sequence
from dataclasses import dataclass

from minigpt4.common.registry import registry
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.controls import GREY
from minigpt4.tasks.intervals import Interval
from minigpt4.tasks.records import Metrics, Record


@dataclass(frozen=True)
class Evaluation:
    """Splits that are evaluated together.

    Attributes:
        name: `<data set>_<split>` where the data set names its task; the task of `run.valid_tasks`; empty for
            `run.task` and all the others.
        task: that scores and sums up.
        parts: (data set, split), in order.
    """

    name: str
    task: BaseTask
    parts: tuple[tuple[str, str], ...]

    def has(self, control: str) -> bool:
        """Whether a control says something about this task."""
        return control != GREY or self.task.grey_control


def plan(
    datasets: Datasets, splits: Sequence[str], task: BaseTask, also: Sequence[str] = ()
) -> list[Evaluation]:
    """The evaluations of these splits; the first one decides which checkpoint is the best.

    Args:
        datasets: name -> (builder, data sets by split).
        splits: names; a data set may lack some.
        task: of data sets that do not name one (`datasets.NAME.task`).
        also: tasks, by name, that all of the data is evaluated as beside these.
    """
    pooled: list[tuple[str, str]] = []
    own: list[Evaluation] = []
    for name, (builder, by_split) in datasets.items():
        parts = [(name, split) for split in splits if split in by_split]
        wanted = builder.settings
        if wanted.task is None and wanted.max_new_tokens is None:
            pooled += parts
            continue
        for part in parts:
            one = registry.get_task_class(wanted.task)() if wanted.task else type(task)()
            one.max_new_tokens = wanted.max_new_tokens
            own.append(Evaluation("_".join(part), one, (part,)))
    every = tuple(
        (name, split) for name, (_, there) in datasets.items() for split in splits if split in there
    )
    for wanted in also:
        own.append(Evaluation(wanted.rpartition(":")[2], registry.get_task_class(wanted)(), every))
    return [Evaluation("", task, tuple(pooled)), *own] if pooled else own


def summarize(evaluations: Sequence[Evaluation], records: Sequence[list[Record]]) -> Metrics:
    """What all evaluations come to: those with a name put it before each of their values.

    Args:
        evaluations: as `plan` gives them.
        records: of each of them.
    """
    values: dict[str, float] = {}
    percentages: set[str] = set()
    curves, higher = [], False
    for one, own in zip(evaluations, records, strict=True):
        metrics = one.task.summarize(own)
        before = f"{one.name}_" if one.name else ""
        higher = metrics.higher_is_better if not curves else higher
        curves += [before + curve for curve in (metrics.best, *metrics.curves)]
        values |= {before + name: value for name, value in metrics.values.items()}
        percentages |= {before + name for name in metrics.percentages}
    best, *others = curves
    return Metrics(values, best, higher, frozenset(percentages), tuple(others))


def intervals(evaluations: Sequence[Evaluation], records: Sequence[list[Record]]) -> dict[str, Interval]:
    """The 95 % intervals of the values that `summarize` gives, by name; some have none."""
    return {
        f"{one.name}_{name}" if one.name else name: bounds
        for one, own in zip(evaluations, records, strict=True)
        for name, bounds in one.task.intervals(own).items()
    }

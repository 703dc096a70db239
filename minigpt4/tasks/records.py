"""What an evaluation comes to: a record per sample, and the metrics that a task makes of all of them.

The runner, the report, the plots and `evaluate` know nothing of a task but this.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


# Keys of a report beside the metrics.
RESERVED = {
    *("samples", "before", "percentages", "best_metric", "best_step", "steps", "images", "train_seconds"),
    *("skipped_steps", "trainable_parameters", "bad_samples", "config", "shards", "splits", "shuffled"),
    *("records", "intervals", "controls", "published", "datasets", "peak_memory", "skipped", "limit"),
}


@dataclass(frozen=True)
class Limits:
    """How much of an evaluation is wanted.

    Attributes:
        predictions: the first so many samples need a prediction, None means all. A task whose best metric
            is made of predictions makes all of them.
        pictures: the first so many records keep their picture.
        control: what is done to the pictures (`minigpt4/tasks/controls.py`); empty: nothing.
        total: how many samples there are, for the progress bar.
    """

    predictions: int | None = None
    pictures: int = 0
    control: str = ""
    total: int | None = None


@dataclass(kw_only=True)
class Record:
    """One evaluated sample.

    Attributes:
        image_id: of the sample.
        group: metrics are also reported for each group by itself; empty for none.
        prompt: what the model was asked; None where it was asked for a caption.
        truth: the right answer.
        references: every right answer, where there are several; empty: `truth` alone.
        cluster: records of the same are not independent: they share a picture. Of files, their paths.
        prediction: what the model answered; None where it was not asked.
        loss: of the right answer, in nats per token; None where it was not taken.
        tokens: over how many tokens `loss` is the mean.
        scores: by name, from 0 (wrong) to 1 (right).
        picture: uint8 [H, W, 3], of the first few; never part of the JSON.
    """

    image_id: str
    truth: str
    group: str = ""
    prompt: str | None = None
    prediction: str | None = None
    loss: float | None = None
    tokens: int | None = None
    scores: dict[str, float] = field(default_factory=dict)
    picture: "np.ndarray | None" = None
    references: Sequence[str] = ()
    cluster: str = ""

    @property
    def answers(self) -> Sequence[str]:
        """All right answers."""
        return self.references or [self.truth]

    @property
    def right(self) -> bool | None:
        """Whether the prediction is wholly right, as the first of the scores says; None without scores."""
        return next(iter(self.scores.values())) == 1 if self.scores else None

    def to_json(self) -> dict[str, Any]:
        """What is there, without the picture; each score is a key of its own."""
        content = {**vars(self), **{name: float(score) for name, score in self.scores.items()}}
        del content["scores"], content["picture"]
        if not self.references:
            del content["references"]
        if self.cluster in ("", self.image_id):
            del content["cluster"]
        return {key: _for_json(value) for key, value in content.items() if value is not None}


@dataclass(frozen=True)
class Metrics:
    """What a task makes of its records.

    Attributes:
        values: by name, in the order in which they are shown; numbers of any kind, kept as int or float.
        best: the name of the one that decides which checkpoint is the best.
        higher_is_better: whether more of `best` is better, or less.
        percentages: names of those that are shown as %.
        curves: names of those that are drawn beside `best` where training validates.

    Raises:
        ValueError: if `best`, `percentages` or `curves` name what is not in `values`, or a name is
            in RESERVED.
    """

    values: Mapping[str, float]
    best: str
    higher_is_better: bool = False
    percentages: frozenset[str] = frozenset()
    curves: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A number of NumPy's or torch's could not be written as JSON, at the end of a long run.
        values = {name: one if isinstance(one, int) else float(one) for name, one in self.values.items()}
        object.__setattr__(self, "values", values)
        for name in self.values:
            if not isinstance(name, str) or name in RESERVED:
                raise ValueError(f"a metric cannot be called {name!r}, which is another key of a report")
        for name in (self.best, *self.percentages, *self.curves):
            if name not in self.values:
                raise ValueError(f"metric {name!r} is not among the values {', '.join(self.values)}")

    def improve_on(self, before: float | None) -> bool:
        """Whether the deciding value is better than an earlier one; one that is not finite never is."""
        now = self.values[self.best]
        if before is None or not math.isfinite(now):
            return math.isfinite(now)
        return now > before if self.higher_is_better else now < before

    def to_json(self) -> dict[str, float | None]:
        """The values; None for those that are not finite, for which JSON has no word."""
        return {name: _for_json(value) for name, value in self.values.items()}


def wrong_first(records: Iterable[Record]) -> list[Record]:
    """In the order in which people look at them; those without scores count as wrong."""
    return sorted(records, key=lambda record: bool(record.right))


def mean_loss(records: Sequence[Record]) -> float:
    """The mean over all target tokens, in nats; NaN without any."""
    taken = [(record.loss, record.tokens) for record in records if record.loss is not None and record.tokens]
    tokens = sum(count for _, count in taken)
    return sum(loss * count for loss, count in taken) / tokens if tokens else math.nan


def mean_score(records: Iterable[Record], name: str) -> dict[str, float]:
    """The mean of a score over the records that have it: `name`, and `name_<group>` for each group."""
    scored = [(record.group, record.scores[name]) for record in records if name in record.scores]
    means = {name: _mean([score for _, score in scored])}
    for group in sorted({group for group, _ in scored if group}):
        means[f"{name}_{group}"] = _mean([score for own, score in scored if own == group])
    return means


def yes_share(records: Sequence[Record]) -> dict[str, float]:
    """`yes`: how often "yes" was answered, where each answer is yes or no (POPE's question); else nothing.

    Li et al. 2023, "Evaluating Object Hallucination in Large Vision-Language Models".
    """
    truths = {record.truth.strip(" .").lower() for record in records}
    if not truths or not truths <= {"yes", "no"}:
        return {}
    said = [(record.prediction or "").strip().lower().startswith("yes") for record in records]
    return {"yes": _mean([float(one) for one in said])}


def accuracy_metrics(records: Sequence[Record]) -> Metrics:
    """The mean of the score `accuracy`, of all and of each group; the share of "yes" of yes/no sets."""
    values = mean_score(records, "accuracy") | yes_share(records)
    return Metrics(values, best="accuracy", higher_is_better=True, percentages=frozenset(values))


def format_metric(value: float | None, percent: bool = False) -> str:
    """A metric for people: `85.0%`, `1.234`, a count as it is, `-` for what is not a number."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.1%}" if percent else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _for_json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

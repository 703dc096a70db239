"""How sure an evaluation is: 95 % intervals, in which questions about one picture are not independent."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from minigpt4.tasks.records import Record

Interval = tuple[float, float]
RESAMPLES = 1000
Z = 1.959963984540054  # of a normal distribution, 95 % lies within so many standard deviations


def interval(scores: Sequence[float], clusters: Sequence[str]) -> Interval:
    """The 95 % interval of the mean of scores from 0 to 1.

    Wilson's interval (1927) for as many independent samples as have the variance that the clusters show: a
    mean over n samples whose clusters vary as one of n / 2 independent ones would counts as n / 2. Never more
    than n; where all scores are equal, the number of clusters.

    Args:
        scores: not empty.
        clusters: of each score; scores of one cluster may depend on each other.
    """
    values = np.asarray(scores, dtype=float)
    _, of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    count, groups, mean = len(values), int(of.max()) + 1, float(values.mean())
    deviations = np.bincount(of, values - mean)
    variance = float((deviations**2).sum()) * groups / max(groups - 1, 1) / count**2
    spread = mean * (1 - mean)
    alone = spread / max(count - 1, 1)  # the variance of a mean over independent samples
    size = min(count * alone / variance, count) if variance > 1e-15 and groups > 1 else groups
    centre = mean + Z**2 / (2 * size)
    half = Z * math.sqrt(spread / size + Z**2 / (4 * size**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / size) for sign in (-1, 1))
    return (0.0 if mean == 0 else low), (1.0 if mean == 1 else high)


def intervals_of_scores(records: Sequence[Record]) -> dict[str, Interval]:
    """The interval of the mean of every score, of all (`NAME`) and of each group (`NAME_GROUP`).

    Scores that are not from 0 to 1 are left out.
    """
    by_name: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        for score in record.scores:
            for group in {"", record.group}:
                by_name.setdefault((score, group), []).append(record)
    intervals = {}
    for (score, group), own in by_name.items():
        scores = [record.scores[score] for record in own]
        if min(scores) >= 0 and max(scores) <= 1:
            clusters = [record.cluster or record.image_id for record in own]
            intervals[f"{score}_{group}" if group else score] = interval(scores, clusters)
    return intervals


def resampled(records: Sequence[Record], metric: Callable[[Sequence[Record]], float]) -> Interval:
    """The 95 % interval of any metric: the middle of its values on resampled clusters (Efron 1979).

    Seeded: the same records give the same interval.

    Args:
        records: not empty.
        metric: of records; where it is NaN, a resample does not count.
    """
    clusters: dict[str, list[Record]] = {}
    for record in records:
        clusters.setdefault(record.cluster or record.image_id, []).append(record)
    groups, draws = list(clusters.values()), np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        drawn = draws.integers(len(groups), size=len(groups))
        values.append(metric([record for number in drawn for record in groups[number]]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high)

"""Several datasets, one stream of batches."""

import random
from collections.abc import Iterable, Iterator
from typing import Any


def mix(loaders: list[Iterable], ratios: list[float], seed: int) -> Iterator[dict[str, Any]]:
    """Draw each batch from one of the loaders, with probabilities in proportion to `ratios`.

    The draw depends on the seed and the number of the batch alone, so every rank draws the same dataset
    for the same step and none waits for another.
    """
    iterators = [iter(loader) for loader in loaders]
    rng = random.Random(seed)
    while True:
        (chosen,) = rng.choices(iterators, weights=ratios)
        yield next(chosen)

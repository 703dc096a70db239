"""Several datasets, one stream of batches."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

from minigpt4.common.errors import DataError


def mix(loaders: list[Iterable], ratios: list[float], seed: int) -> Iterator[dict[str, Any]]:
    """Draw each batch from one of the loaders, with probabilities in proportion to `ratios`.

    The draw depends on the seed and the number of the batch alone, so every rank draws the same dataset
    for the same step and none waits for another. A loader that ends begins again.

    Raises:
        DataError: if a loader has not one batch.
    """
    iterators = [iter(loader) for loader in loaders]
    rng = random.Random(seed)
    while True:
        (chosen,) = rng.choices(range(len(loaders)), weights=ratios)
        batch = next(iterators[chosen], None)
        if batch is None:
            iterators[chosen] = iter(loaders[chosen])
            batch = next(iterators[chosen], None)
        if batch is None:
            raise DataError("a dataset that is to be trained on has not one batch")
        yield batch

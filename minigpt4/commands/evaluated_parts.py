"""The parts of a report that several processes make: files of records, and how they become one list."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError, reading
from minigpt4.common.logger import write_json
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.prompts.sample import Batch
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.records import Limits, Record

# The records of each batch, of each split.
Records = list[list[list[Record]]]


def records_by_batch(
    task: BaseTask, model: MiniGPTBase, batches: Iterable[Batch], limits: Limits
) -> list[list[Record]]:
    """What `BaseTask.evaluate` makes, batch by batch."""
    keys: list[list[str]] = []

    def noted() -> Iterator[Batch]:
        for batch in batches:
            keys.append(list(batch.image_ids))
            yield batch

    left = deque(task.evaluate(model, noted(), limits))
    # Of a batch, some samples may be left out; their order stays.
    by_batch = [[left.popleft() for key in batch if left and left[0].image_id == key] for batch in keys]
    return [*by_batch, list(left)] if left else by_batch


def write_part(path: Path, made: dict[str, Any], records: Records) -> None:
    """Write a part, completely or not at all.

    Args:
        path: of the part.
        made: the settings that it depends on.
        records: of this share's batches.
    """
    write_json(
        path,
        {
            "made": made,
            "splits": [[[_fields(record) for record in batch] for batch in split] for split in records],
        },
    )


def _fields(record: Record) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key != "picture"}


def read_part(path: Path, made: dict[str, Any]) -> Records:
    """Read a part.

    Raises:
        ConfigError: if it is not one, or was made with other settings.
    """
    with reading(path, ConfigError, failed="--out: {} is not part of a report, please remove it"):
        content = json.loads(path.read_bytes())
        splits = [[[Record(**one) for one in batch] for batch in split] for split in content["splits"]]
        same = content["made"] == json.loads(json.dumps(made))
    if not same:
        raise ConfigError(
            f"--out: {path} was made with another config or other arguments: please remove it, or name "
            "another --out"
        )
    return splits


def in_order(parts: Sequence[Records]) -> list[Record]:
    """The records of all parts, in the order of a single process.

    Args:
        parts: of all shares; a batch falls to each in turn.
    """
    turns = (zip_longest(*split, fillvalue=[]) for split in zip(*parts, strict=True))
    return [record for split in turns for turn in split for record in chain(*turn)]

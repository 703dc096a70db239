"""Image-text pairs out of webdataset shards, in the layout that img2dataset leaves.

A stream yields samples and, where something is wrong, a `Bad` with the reason: it never stops for one
broken picture, and nothing is dropped without being counted.
"""

import io
import json
import random
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import braceexpand
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys, tar_file_expander

from minigpt4.common.errors import DataError
from minigpt4.common.weights import require_value

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
# Above this a picture is a decompression bomb: 100 million pixels are 300 MB once decoded.
MAX_PIXELS = 100_000_000
SHUFFLE_BUFFER = 1000


@dataclass(frozen=True)
class Bad:
    """A sample or a shard that was skipped, and why."""

    reason: str
    where: str


class BadSample(Exception):
    """Raised inside this module with the reason a sample is skipped."""


def expand_shards(storage: str | list[str], key: str) -> list[str]:
    """Brace patterns, lists, URLs and `pipe:` commands -> a list of shards, in order.

    Args:
        storage: e.g. `data/{00000..01255}.tar`.
        key: the YAML key, for messages.

    Raises:
        ConfigError: for a placeholder.
        DataError: if no local shard of them exists.
    """
    patterns = [storage] if isinstance(storage, str) else list(storage)
    shards = [shard for pattern in patterns for shard in braceexpand.braceexpand(require_value(pattern, key))]
    if not any(_is_remote(shard) or Path(shard).is_file() for shard in shards):
        raise DataError(
            f"{key}: no shard matches {storage!r} (looked for {shards[0]} and {len(shards) - 1} more)"
        )
    return shards


def _is_remote(shard: str) -> bool:
    return shard.startswith("pipe:") or "://" in shard


class WebdatasetStream(IterableDataset):
    """Samples `{"image", "answer", "image_id", "group"}` or `Bad`, one after the other.

    Args:
        shards: as `expand_shards` gives them.
        image_transform: PIL image -> tensor [3, H, W].
        text_processor: caption -> caption.
        training: True draws shards at random, for ever, and shuffles samples; False reads everything
            once, in order.
        seed: decides the order, together with rank and worker.
    """

    def __init__(
        self,
        shards: list[str],
        image_transform: Callable[[Image.Image], torch.Tensor],
        text_processor: Callable[[str], str],
        *,
        training: bool,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.image_transform = image_transform
        self.text_processor = text_processor
        self.training = training
        self.seed = seed
        self.rank, self.world_size = 0, 1

    def __iter__(self) -> Iterator[dict[str, Any] | Bad]:
        worker = get_worker_info()
        place, places = (worker.id, worker.num_workers) if worker else (0, 1)
        place, places = self.rank * places + place, self.world_size * places
        if not self.training:
            raw = _read_shards(iter(self.shards[place::places]))
        else:
            rng = random.Random(f"{self.seed}/{place}")
            raw = _shuffled(_read_shards(_resampled(self.shards, rng)), rng)
        for item in raw:
            yield item if isinstance(item, Bad) else self._decode(item)

    def _decode(self, raw: dict[str, Any]) -> dict[str, Any] | Bad:
        try:
            caption, meta = _caption(raw)
            image = self.image_transform(_open_image(raw))
        except BadSample as bad:
            return Bad(str(bad), f"{raw['__url__']}:{raw['__key__']}")
        return {
            "image": image,
            "answer": self.text_processor(caption),
            "image_id": raw["__key__"],
            "group": str(meta.get("group", "")),
        }


def _resampled(shards: list[str], rng: random.Random) -> Iterator[str]:
    """Shards with replacement, for ever: no rank or worker can run out before the others."""
    while True:
        yield rng.choice(shards)


def _shuffled(items: Iterator, rng: random.Random) -> Iterator:
    """An endless stream through a buffer from which one is drawn at random each time.

    While it fills, every second item is kept back, so that the first batch does not wait for all of it.
    """
    buffer: list = []
    for count, item in enumerate(items):
        buffer.append(item)
        if len(buffer) < SHUFFLE_BUFFER and count % 2 == 0:
            continue
        place = rng.randrange(len(buffer))
        buffer[place], buffer[-1] = buffer[-1], buffer[place]
        yield buffer.pop()


def _read_shards(shards: Iterator[str]) -> Iterator[dict[str, Any] | Bad]:
    for shard in shards:
        problems: list[Exception] = []
        count = 0

        def stop_here(error: Exception, problems: list[Exception] = problems) -> bool:
            problems.append(error)
            return False

        try:
            with gopen(shard) if _is_remote(shard) else open(shard, "rb") as stream:
                members = tar_file_expander([{"url": shard, "stream": stream}], handler=stop_here)
                for sample in group_by_keys(members, handler=stop_here):
                    count += 1
                    yield sample
        except OSError as error:
            problems.append(error)
        if problems:
            yield Bad(_shard_reason(problems[0]), shard)
        elif not count:
            yield Bad("empty shard", shard)


def _shard_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing shard"
    return "truncated shard" if isinstance(error, (tarfile.TarError, EOFError)) else "unreadable shard"


def _caption(raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The caption (from the JSON, else the text file) and the JSON's other fields."""
    meta: dict[str, Any] = {}
    if "json" in raw:
        try:
            meta = json.loads(raw["json"])
        except ValueError as error:
            raise BadSample("broken json") from error
        if not isinstance(meta, dict):
            raise BadSample("broken json")
    caption = meta.get("caption")
    if caption is None and "txt" in raw:
        caption = raw["txt"].decode("utf-8", errors="replace")
    if caption is None:
        raise BadSample("no caption")
    if not str(caption).strip():
        raise BadSample("empty caption")
    return str(caption), meta


def _open_image(raw: dict[str, Any]) -> Image.Image:
    suffix = next((s for s in IMAGE_SUFFIXES if s in raw), None)
    if suffix is None:
        raise BadSample("no image")
    try:
        image = Image.open(io.BytesIO(raw[suffix]))
        if image.width * image.height > MAX_PIXELS:
            raise BadSample("image too large")
        image.load()
    except Image.DecompressionBombError as error:
        raise BadSample("image too large") from error
    except (OSError, ValueError, SyntaxError) as error:
        # PIL raises any of the three for what is no picture or only a part of one.
        raise BadSample("broken image") from error
    return image

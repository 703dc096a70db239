"""Image-text pairs from webdataset shards."""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import braceexpand
import numpy as np
import torch

from minigpt4.common.errors import BadSample, ConfigError, DataError
from minigpt4.datasets.datasets.manifest import read_manifest
from minigpt4.datasets.datasets.shard_order import ShardPart, read_epochs
from minigpt4.datasets.datasets.shard_reader import RawSample, is_remote, read_shard
from minigpt4.datasets.stream import UNUSABLE, Reading, SampleStream, Skipped, clean_caption
from minigpt4.processors.pictures import decode_picture
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from minigpt4.weights.resolver import require_value

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


def expand_shards(storage: str | list[str], key: str) -> list[str]:
    """Brace patterns, lists, URLs, `pipe:` commands and manifests -> a list of shards, in order.

    Args:
        storage: e.g. `data/{00000..01255}.tar`, or the .json file that minigpt4 check-shards writes.
        key: the YAML key, for messages.

    Raises:
        ConfigError: for a placeholder, nothing, or braces that do not match.
        DataError: if no local shard of them exists, or a manifest is not one.
    """
    patterns = storage if isinstance(storage, list) else [storage]
    try:
        shards = [
            os.path.expanduser(shard)
            for pattern in patterns or [None]
            for shard in _expand(require_value(pattern, key), key)
        ]
    except ValueError as error:
        raise ConfigError(f"{key} is {storage!r}: {error}") from error
    if not any(is_remote(shard) or Path(shard).is_file() for shard in shards):
        raise DataError(
            f"{key}: no shard matches {storage!r} (looked for {shards[0]} and {len(shards) - 1} more)"
        )
    return shards


def _expand(pattern: str, key: str) -> Iterable[str]:
    if pattern.endswith(".json") and not is_remote(pattern):
        return read_manifest(pattern, key)
    # No escapes: on Windows a backslash is part of the path.
    return braceexpand.braceexpand(pattern, escape=False)


def caption_dialogue(raw: RawSample, rng: random.Random | None = None, *, key: str | None = None) -> Dialogue:
    """The caption of a sample, from its JSON or else from a text file.

    Args:
        raw: the sample.
        rng: nothing is drawn.
        key: the field of the JSON, or the suffix of the text file; None takes the field `caption`, else the
            file `.txt`.

    Raises:
        BadSample: if there is none.
    """
    caption = raw.fields.get(key or "caption")
    caption = raw.text(key or "txt") if caption is None else caption
    if caption is None:
        raise BadSample("no caption")
    return Dialogue.caption(clean_caption(caption))


def decode_image(raw: RawSample) -> np.ndarray:
    """The image of a sample: uint8 pixels [H, W, 3]. Raises BadSample."""
    data = next((raw.files[suffix] for suffix in IMAGE_SUFFIXES if suffix in raw.files), None)
    if data is None:
        raise BadSample("no image")
    return decode_picture(data)


class WebdatasetStream(SampleStream):
    """The samples of webdataset shards, one image each.

    In training, each epoch has a new order, and samples are shuffled (see `shard_order`).

    Args:
        shards: as `expand_shards` gives them.
        image_transform: pixels [H, W, 3] -> tensor [3, H, W].
        text_processor: caption -> caption; other texts stay as they are.
        dialogue: what is said about a sample's image, with `<Img><ImageHere></Img>` where the image goes.
            It gets the sample and a generator for what it draws, and may raise BadSample.
    """

    UNIT = "shard"

    def __init__(
        self,
        shards: list[str],
        image_transform: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        dialogue: Callable[[RawSample, random.Random], Dialogue] = caption_dialogue,
    ) -> None:
        self.shards = shards
        self.image_transform = image_transform
        self.text_processor = text_processor
        self.dialogue = dialogue

    @property
    def size(self) -> int:
        return len(self.shards)

    def read(self, reading: Reading) -> Iterator[tuple[Sample | Skipped, tuple | None]]:
        """As `SampleStream.read`; a position is a `ReaderPosition` as a bare tuple."""
        if not reading.training:
            for shard in self.shards[reading.reader :: reading.readers]:
                yield from ((self._sample(item, 0, reading), None) for item in read_shard(shard))
            return
        for item, after in read_epochs(self._read_part, len(self.shards), reading):
            yield self._sample(item, after.epoch, reading), tuple(after)

    def _read_part(self, part: ShardPart) -> Iterator[RawSample | Skipped]:
        """Every `parts`-th sample of a shard; what is wrong with all of it belongs to the first part."""
        number = 0
        for item in read_shard(self.shards[part.shard]):
            if isinstance(item, Skipped):
                if part.part == 0:
                    yield item
                continue
            if number % part.parts == part.part:
                yield item
            number += 1

    def load_image(self, raw: RawSample) -> dict[str, Any]:
        """What the model sees of a sample: `image`, or `features`, and `size` of a `Sample`.

        Subclasses whose shards hold something other than images override this.

        Raises:
            BadSample: if there is none, or it is broken.
        """
        pixels = decode_image(raw)
        return {"image": self.image_transform(pixels), "size": pixels.shape[:2]}

    def _sample(self, raw: RawSample | Skipped, epoch: int, reading: Reading) -> Sample | Skipped:
        if isinstance(raw, Skipped):
            return raw
        try:
            dialogue = self.dialogue(raw, reading.rng(epoch, raw.key))
            if dialogue.is_caption and len(dialogue.turns) == 1:
                dialogue = Dialogue.caption(clean_caption(dialogue.answer, self.text_processor))
            group = str(raw.fields.get("group", ""))
            return Sample(dialogue=dialogue, image_id=raw.key, group=group, **self.load_image(raw))
        except UNUSABLE as error:
            return Skipped.because(error, str(raw))

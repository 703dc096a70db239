"""Image-text pairs out of webdataset shards, in the layout that img2dataset leaves."""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import IO, Any

import braceexpand
import numpy as np
import torch
from torch.utils.data import IterableDataset
from webdataset.gopen import gopen
from webdataset.tariterators import group_by_keys

from minigpt4.common.errors import BadSample, ConfigError, DataError
from minigpt4.datasets.datasets.base_dataset import (
    Bad,
    SampleStream,
    check_caption,
)
from minigpt4.datasets.datasets.manifest import read_manifest
from minigpt4.datasets.datasets.remote import open_url
from minigpt4.datasets.datasets.shard_order import ReaderPosition, ShardPart, read_epochs
from minigpt4.datasets.datasets.tar_header import Header
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
        DataError: if no local shard of them exists, or a manifest is none.
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
    if not any(_is_remote(shard) or Path(shard).is_file() for shard in shards):
        raise DataError(
            f"{key}: no shard matches {storage!r} (looked for {shards[0]} and {len(shards) - 1} more)"
        )
    return shards


def _expand(pattern: str, key: str) -> Iterable[str]:
    if pattern.endswith(".json") and not _is_remote(pattern):
        return read_manifest(pattern, key)
    # No escapes: on Windows a backslash is part of the path.
    return braceexpand.braceexpand(pattern, escape=False)


def _is_remote(shard: str) -> bool:
    return shard.startswith("pipe:") or "://" in shard


class WebdatasetStream(SampleStream, IterableDataset):
    """A `Sample` with a caption, or a `Bad`, one after the other.

    Args:
        shards: as `expand_shards` gives them.
        image_transform: pixels [H, W, 3] -> tensor [3, H, W].
        text_processor: caption -> caption.
        training: True reads for ever, each pass in a new order, and shuffles samples (see `passes`); False
            reads everything once, in order.
        seed: decides the order, together with reader and number of readers.
        caption_key: the field of the JSON, or the suffix of the text file, that holds the caption; None
            takes the field `caption`, else the file `.txt`.
    """

    def __init__(
        self,
        shards: list[str],
        image_transform: Callable[[np.ndarray], torch.Tensor],
        text_processor: Callable[[str], str],
        *,
        training: bool,
        seed: int = 0,
        caption_key: str | None = None,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.image_transform = image_transform
        self.text_processor = text_processor
        self.training = training
        self.seed = seed
        self.caption_key = caption_key

    @property
    def size(self) -> int:
        return len(self.shards)

    def read(
        self, reader: int, readers: int, position: tuple | None = None
    ) -> Iterator[tuple[Sample | Bad, tuple | None]]:
        """As `SampleStream.read`."""
        if self.training:
            start = ReaderPosition(*position or ())
            raw = read_epochs(self._read_part, len(self.shards), self.seed, reader, readers, start)
        else:
            raw = ((item, None) for shard in self.shards[reader::readers] for item in _read_shard(shard))
        for item, after in raw:
            yield item if isinstance(item, Bad) else self._decode(item), after

    def _read_part(self, part: ShardPart) -> Iterator[dict[str, Any] | Bad]:
        """Every `parts`-th sample of a shard; what is wrong with all of it belongs to the first part."""
        number = 0
        for item in _read_shard(self.shards[part.shard]):
            if isinstance(item, Bad):
                if part.part == 0:
                    yield item
                continue
            if number % part.parts == part.part:
                yield item
            number += 1

    def look(self, raw: dict[str, Any]) -> dict[str, torch.Tensor]:
        """What the model sees of a raw sample: `image` or `features` of a `Sample`. Raises BadSample.

        Subclasses whose shards hold something else than pictures override this, and keep all the rest.
        """
        return {"image": self.image_transform(_image(raw))}

    def _decode(self, raw: dict[str, Any]) -> Sample | Bad:
        try:
            caption, meta = _caption(raw, self.caption_key)
            answer = self.text_processor(caption)
            if not answer.strip():  # it was nothing but signs
                raise BadSample("empty caption")
            seen = self.look(raw)
        except BadSample as bad:
            return Bad(str(bad), f"{raw['__url__']}:{raw['__key__']}")
        return Sample(
            dialogue=Dialogue.caption(answer),
            image_id=raw["__key__"],
            group=str(meta.get("group", "")),
            **seen,
        )


def _read_shard(shard: str) -> Iterator[dict[str, Any] | Bad]:
    """All samples up to where the shard is damaged, then what was wrong with it."""
    reasons: list[str] = []

    def repeated(_: Exception) -> bool:
        reasons.append("repeated file")
        return True

    count = 0
    for sample in group_by_keys(_members(shard, reasons), handler=repeated):
        count += 1
        yield sample
    if not count and not reasons:
        reasons.append("empty shard")
    for reason in reasons:
        yield Bad(reason, shard)


def _members(shard: str, reasons: list[str]) -> Iterator[dict[str, Any]]:
    """The files of a shard, as `group_by_keys` wants them; why it ends early is added to `reasons`."""
    try:
        with (
            _open(shard) as stream,
            tarfile.open(fileobj=stream, mode="r|*", tarinfo=Header) as tar,
        ):
            for info in tar:
                # `__` begins what webdataset keeps for itself.
                if info.isreg() and not info.name.startswith("__"):
                    yield {"fname": info.name, "data": _data(tar, info), "__url__": shard}
                tar.members = []  # else every header of the shard stays in memory
    except (OSError, EOFError, HTTPException, tarfile.TarError) as error:
        reasons.append(_shard_reason(error))


def _open(shard: str) -> IO[bytes]:
    if not _is_remote(shard):
        return open(shard, "rb")
    # webdataset starts curl, which waits for ever, and after a cut sends the file's head once more.
    return open_url(shard) if shard.startswith(("http://", "https://")) else gopen(shard)


def _data(tar: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """The file whose header has just been read: the stream stands at its first byte."""
    if info.issparse():
        return tar.extractfile(info).read()
    data = tar.fileobj.read(info.size)  # without extractfile's two layers of buffers
    if len(data) < info.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _shard_reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "missing shard"
    text = str(error)
    if text == "empty file":
        return "empty shard"
    if isinstance(error, EOFError | IncompleteRead) or "truncated" in text or "unexpected end" in text:
        return "truncated shard"
    return "damaged shard" if isinstance(error, tarfile.TarError) else "unreadable shard"


def _caption(raw: dict[str, Any], key: str | None) -> tuple[str, dict[str, Any]]:
    """The caption (from the JSON, else a text file) and the JSON's other fields."""
    meta: dict[str, Any] = {}
    if "json" in raw:
        try:
            meta = json.loads(raw["json"])
        except (ValueError, RecursionError) as error:
            raise BadSample("broken json") from error
        if not isinstance(meta, dict):
            raise BadSample("broken json")
    caption = meta.get(key or "caption")
    # webdataset makes suffixes small, and what begins with `__` is its own.
    suffix = (key or "txt").lower()
    if caption is None and isinstance(raw.get(suffix), bytes):
        caption = raw[suffix].decode("utf-8", errors="replace")
    if caption is None:
        raise BadSample("no caption")
    return check_caption(caption), meta


def _image(raw: dict[str, Any]) -> np.ndarray:
    suffix = next((s for s in IMAGE_SUFFIXES if s in raw), None)
    if suffix is None:
        raise BadSample("no image")
    return decode_picture(raw[suffix])

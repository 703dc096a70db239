"""Small webdataset shards in img2dataset's layout: `KEY.jpg`, `KEY.txt`, `KEY.json` for each sample."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
from minigpt4.datasets.stream import Reading, SampleStream, Skipped
from minigpt4.processors.blip_processors import Blip2ImageTrainProcessor, BlipCaptionProcessor
from minigpt4.prompts.sample import Sample

SIZE = 8
Member = tuple[str, bytes]


def picture(seed: int = 0, mode: str = "RGB", size: int = SIZE) -> Image.Image:
    """Random colours, so that no two pictures are alike and nothing is lost unseen."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(picture())


def sample(
    key: str,
    image: bytes | None = JPEG,
    caption: str | None = "a dog",
    *,
    suffix: str = "jpg",
    meta: bytes | dict[str, Any] | None = None,
) -> list[Member]:
    """The files of one sample; what is None is left out. `caption` stands in the text file."""
    members: list[Member] = []
    if image is not None:
        members.append((f"{key}.{suffix}", image))
    if caption is not None:
        members.append((f"{key}.txt", caption.encode()))
    if meta is not None:
        members.append((f"{key}.json", json.dumps(meta).encode() if isinstance(meta, dict) else meta))
    return members


def write_shard(path: Path, members: Iterable[Member]) -> str:
    """Write the files of a shard; their samples are grouped by name, as they come."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


def write_good(folder: Path, shards: int, each: int) -> list[str]:
    """Shards 00000.tar, ... with the captions `picture 0`, `picture 1`, ... in order."""
    return [
        write_shard(
            folder / f"{shard:05d}.tar",
            [
                member
                for n in range(shard * each, (shard + 1) * each)
                for member in sample(f"{n:09d}", caption=f"picture {n}")
            ],
        )
        for shard in range(shards)
    ]


TRAINING = Reading(training=True)


def stream(shards: list[str], *, size: int = SIZE, **options: Any) -> WebdatasetStream:
    """A stream with the processors of stage 1."""
    return WebdatasetStream(
        shards, Blip2ImageTrainProcessor(size).to_batch, BlipCaptionProcessor(), **options
    )


def read(dataset: SampleStream, **reading: Any) -> Iterator[Sample | Skipped]:
    """What a reader reads; once and in order unless told otherwise."""
    return (item for item, _ in dataset.read(Reading(**reading)))


def sorted_out(items: SampleStream | Iterable[Sample | Skipped]) -> tuple[list[Sample], Counter[str]]:
    """The good samples, and how many were skipped for each reason."""
    items = list(read(items) if isinstance(items, SampleStream) else items)
    bad = Counter(item.reason for item in items if isinstance(item, Skipped))
    return [item for item in items if not isinstance(item, Skipped)], bad


def numbers(said: Iterable[Sample | str]) -> Iterator[int]:
    """The n of each `picture n`, in samples or their answers."""
    answers = (one if isinstance(one, str) else one.dialogue.answer for one in said)
    return (int(answer.split()[-1]) for answer in answers)

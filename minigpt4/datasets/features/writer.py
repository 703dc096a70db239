"""How a cache of features is written: shard by shard, each completely or not at all."""

import io
import json
import logging
import os
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from minigpt4.common.errors import ConfigError
from minigpt4.common.lock import Held, Lock
from minigpt4.common.logger import write_json
from minigpt4.datasets.datasets.webdataset_stream import WebdatasetStream
from minigpt4.datasets.features.reader import pack_dialogue, pack_features
from minigpt4.datasets.stream import Reading, Skipped, this_worker
from minigpt4.datasets.workers import read_by_workers
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.vision_tower import VisionTower
from minigpt4.prompts.sample import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is cached at once, completely or not at all.

    Attributes:
        out: the cache's folder.
        file: what is made, below it.
        batch_size: images per batch.
    """

    out: Path
    file: str
    batch_size: int

    @property
    def source(self) -> str:
        """What it is made from."""
        raise NotImplementedError

    @property
    def path(self) -> Path:
        return self.out / self.file

    def record(self) -> dict[str, Any] | None:
        """What was written beside it when it was finished; None before.

        Raises:
            ConfigError: if it was made from something else.
        """
        path = self.path.with_suffix(".json")
        if not path.is_file():
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["source"] != self.source:
            raise ConfigError(
                f"{self.path} was made from {record['source']}, the config says {self.source}: please choose "
                "another --out, or delete that folder"
            )
        return record

    def finish(self, samples: int, bad: dict[str, int], shape: TokenShape) -> None:
        """Write the record: its presence says that it is complete."""
        record = {"file": self.file, "source": self.source, "samples": samples, "bad": bad}
        write_json(self.path.with_suffix(".json"), record | {"shape": asdict(shape)})

    def batches(self) -> "Iterator[tuple[Images | None, dict[str, int] | None]]":
        """Its images, and, with the last batch, which may be None, what was bad, by reason."""
        raise NotImplementedError

    def writer(self) -> "Writer":
        """What writes it. Raises Held if another process does."""
        raise NotImplementedError


class Images(Protocol):
    """Images [N, 3, H, W] of N pictures or frames, and how many things to be written they are."""

    @property
    def images(self) -> torch.Tensor | None: ...
    def __len__(self) -> int: ...


class Writer(Protocol):
    """Writes what a job makes, under a temporary name until it is complete."""

    def add(self, batch: Any, features: torch.Tensor) -> None:
        """Write what `Job.batches` gave, whose features are [N, P, width]."""

    def finish(self, bad: dict[str, int], shape: TokenShape) -> None:
        """Write the record."""

    def abandon(self) -> None:
        """Give it up, so that another process can write it."""


@dataclass(frozen=True)
class Shard(Job):
    """One shard of images, and the shard of features that is made from it.

    Attributes:
        stream: its samples, with captions as they are.
    """

    stream: WebdatasetStream

    @classmethod
    def of(cls, stream: WebdatasetStream, number: int, out: Path, file: str, batch_size: int) -> "Shard":
        """Shard `number` of a stream, by itself."""
        single = WebdatasetStream([stream.shards[number]], stream.image_transform, str, stream.dialogue)
        return cls(out, file, batch_size, single)

    @property
    def source(self) -> str:
        return self.stream.shards[0]

    def batches(self) -> Iterator[tuple[Batch | None, dict[str, int] | None]]:
        samples, bad = [], Counter()
        for item, _ in self.stream.read(Reading()):
            if isinstance(item, Skipped):
                bad[item.reason] += 1
                continue
            if len(samples) == self.batch_size:
                yield Batch.of(samples), None
                samples = []
            samples.append(item)
        yield Batch.of(samples) if samples else None, dict(bad)

    def writer(self) -> "ShardWriter":
        return ShardWriter(self)


class JobBatches(IterableDataset):
    """Triples (number of the job, batch, bad samples by reason or None), read by several workers.

    No batch crosses jobs, so that what is written for one does not depend on the others. The last triple
    of each carries what was bad in it; its batch is None where nothing is left.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self.jobs = jobs

    def __iter__(self) -> Iterator[tuple[int, Images | None, dict[str, int] | None]]:
        worker, workers = this_worker()
        for number in range(worker, len(self.jobs), workers):
            for batch, bad in self.jobs[number].batches():
                yield number, batch, bad


class ShardWriter:
    """Writes a shard of features, under a temporary name until it is complete.

    Raises:
        Held: if another process writes it.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.samples = 0
        shard.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = Lock(shard.path.with_name(f".{shard.path.name}.lock"))
        self._lock.acquire()
        self._part = shard.path.with_name(f".{shard.path.name}.part")
        self._file = self._part.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w")  # noqa: SIM115  (open while batches come in)

    def add(self, batch: Batch, features: torch.Tensor) -> None:
        """Write a batch, whose features are [B, P, width]."""
        for row, key in enumerate(batch.image_ids):
            fields = pack_dialogue(batch.dialogues[row]) | {"size": batch.sizes[row]}
            if batch.groups[row]:
                fields["group"] = batch.groups[row]
            if batch.candidates[row]:
                fields["candidates"] = batch.candidates[row]
            self._write(f"{key}.json", json.dumps(fields, ensure_ascii=False).encode())
            self._write(f"{key}.safetensors", pack_features(features[row]))
            self.samples += 1

    def _write(self, name: str, data: bytes) -> None:
        info = tarfile.TarInfo(name)  # its date is 1970: the same images give the same bytes
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def finish(self, bad: dict[str, int], shape: TokenShape) -> None:
        """Give it its name, then write its record."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._part.replace(self.shard.path)
        self.shard.finish(self.samples, bad, shape)
        self._lock.release()

    def abandon(self) -> None:
        """Give up the shard, so that another process can write it."""
        self._file.close()
        self._lock.release()


def _writer(job: Job) -> Writer | None:
    """The writer of a job; None if another process is doing it or has finished it."""
    try:
        writer = job.writer()
    except Held as holder:
        log.info("%s is being written by %s", job.path, holder)
        return None
    if job.record() is not None:
        writer.abandon()
        return None
    return writer


@torch.inference_mode()
def write_jobs(vision: VisionTower, jobs: Sequence[Job], workers: int, bar: tqdm) -> None:
    """Compute the tokens of all images of `jobs`, and write them.

    Args:
        vision: what computes them.
        jobs: none of them finished.
        workers: processes that read images meanwhile.
        bar: counts pictures and videos.
    """
    writers: dict[int, Writer | None] = {}
    finished = 0
    loader = DataLoader(JobBatches(jobs), batch_size=None, num_workers=min(workers, len(jobs)))
    try:
        with read_by_workers(loader, "cache-features") as items:
            for number, batch, bad in items:
                if number not in writers:
                    writers[number] = _writer(jobs[number])
                writer = writers[number]
                if batch is not None and writer is not None:
                    writer.add(batch, vision(batch.images).cpu())
                    bar.update(len(batch))
                if bad is not None:
                    if writer is not None:
                        writer.finish(bad, vision.token_shape)
                    del writers[number]
                    finished += 1
                    bar.set_postfix_str(f"{finished} of {len(jobs)} shards")
    finally:
        for writer in filter(None, writers.values()):
            writer.abandon()

"""Samples to batches, inside the loader's workers, with a count of what was skipped."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch.utils.data import IterableDataset

from minigpt4.common.errors import DataError
from minigpt4.datasets.stream import UNUSABLE, Reading, SampleStream, Skipped, this_worker
from minigpt4.prompts.context import fitted
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Batch, Sample

log = logging.getLogger(__name__)

# Fewer samples than this say nothing about a fraction.
MIN_SEEN = 32
# After this many samples without a good one, an endless stream is given up, whatever fraction is allowed.
HOPELESS = 10_000
# An error names the most frequent reasons.
SHOWN_REASONS = 5
# Further reasons are counted together, because the counts are in every checkpoint.
MAX_REASONS, OTHER_REASONS = 100, "other reasons"


@dataclass(frozen=True)
class ReaderState:
    """Where one worker stands after a batch; a dict of it goes into checkpoints.

    Attributes:
        worker: its number.
        good: samples in the batches it gave so far.
        bad: what was skipped before and between them, by reason.
        position: of its stream.
    """

    worker: int
    good: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    position: Any = None

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class BatchStream(IterableDataset):
    """Batches from a stream of samples.

    Each `Batch` carries what was skipped since the batch before, and a `ReaderState`. A full batch waits for
    the next good sample, so that the last one carries what was skipped up to the end. Give it to a DataLoader
    with `batch_size=None`.

    Args:
        stream: the samples.
        batch_size: samples per batch; the last batch of a finite stream may be smaller.
        max_bad_fraction: a DataError is raised once a larger part of what was read is bad.
        limit: stop after so many samples.
        prompts: the model's: what they cannot encode is skipped, and long dialogues are shortened.
        reading: how the stream is read by this process; its workers share the reading.
        resume: the last `ReaderState.to_dict()` of each worker, in order, to resume after.
        first_worker: the worker whose turn it is. A DataLoader asks its process 0 first: that one reads as
            this worker.
    """

    def __init__(
        self,
        stream: SampleStream,
        batch_size: int,
        max_bad_fraction: float = 0.5,
        limit: int | None = None,
        *,
        reading: Reading | None = None,
        resume: Sequence[Mapping[str, Any]] = (),
        first_worker: int = 0,
        prompts: PromptEncoder | None = None,
    ) -> None:
        super().__init__()
        self.stream = stream
        self.batch_size = batch_size
        self.max_bad_fraction = max_bad_fraction
        self.limit = limit
        self.reading = reading or Reading()
        self.resume = resume
        self.first_worker = first_worker
        self.prompts = prompts

    def __iter__(self) -> Iterator[Batch]:
        process, workers = this_worker()
        worker = (process + self.first_worker) % workers
        start = ReaderState(**self.resume[worker]) if self.resume else ReaderState(worker)
        samples: list[Sample] = []
        good, bad, unreported, position = start.good, Counter(start.bad), Counter(), start.position
        reading = replace(self.reading.share(worker, workers), position=position)
        end = last = "the last shard"
        for read, after in self.stream.read(reading):
            item = self._checked(read)
            if isinstance(item, Skipped):
                reason = item.reason if item.reason in bad or len(bad) < MAX_REASONS else OTHER_REASONS
                if reason not in bad:
                    log.warning(
                        "skipped %s: %s (the first of this kind; more are only counted)",
                        item.where,
                        item.reason,
                    )
                bad[reason] += 1
                unreported[reason] += 1
                position, last = after, item.where
                if good + bad.total() >= MIN_SEEN:
                    self._limit(good, bad, last)
                continue
            if len(samples) == self.batch_size:
                state = ReaderState(worker, good, dict(bad), position)
                yield Batch.of(samples, bad=unreported, reader=state)
                samples, unreported = [], Counter()
            good += 1
            samples.append(item)
            position, last = after, end
            if good == self.limit:
                break
        if bad:
            self._limit(good, bad, last)
        if samples:
            yield Batch.of(samples, bad=unreported, reader=ReaderState(worker, good, dict(bad), position))

    def _checked(self, item: Any) -> Sample | Skipped:
        if isinstance(item, Skipped):
            return item
        if not isinstance(item, Sample):
            found = f"{type(self.stream).__name__} yielded a {type(item).__name__}"
            raise DataError(f"{found}, but a data set must yield Sample or Skipped")
        try:
            return fitted(self.prompts, item, learn_all=self.reading.training) if self.prompts else item
        except UNUSABLE as error:
            return Skipped.because(error, item.image_id)

    def _limit(self, good: int, bad: Counter, where: str) -> None:
        hopeless = not good and bad.total() >= HOPELESS
        if not hopeless and bad.total() <= self.max_bad_fraction * (good + bad.total()):
            return
        reasons = ", ".join(f"{reason}: {count}" for reason, count in bad.most_common(SHOWN_REASONS))
        reasons += f", and {len(bad) - SHOWN_REASONS} other reasons" if len(bad) > SHOWN_REASONS else ""
        limit = f"more than run.max_bad_fraction={self.max_bad_fraction} allows"
        raise DataError(
            f"{bad.total()} of {good + bad.total()} samples are bad ({reasons}; up to {where}), "
            f"{'not one of them is good' if hopeless else limit}"
        )

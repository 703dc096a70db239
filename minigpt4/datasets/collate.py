"""Samples to batches, inside the loader's workers, with a count of what was skipped."""

import logging
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
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
        position: of its stream; within a window, where the window begins.
        given: how many batches of the window it gave; 0 between windows.
    """

    worker: int
    good: int = 0
    bad: Mapping[str, int] = field(default_factory=dict)
    position: Any = None
    given: int = 0

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class _Window:
    """Samples that were read together.

    Attributes:
        samples: in the order in which they were read.
        skipped: what was skipped since the window before, and why.
        before, after: where the reader stands before and after them.
    """

    samples: list[Sample]
    skipped: Sequence[Skipped]
    before: ReaderState
    after: ReaderState


@dataclass(frozen=True)
class _Ready:
    """A batch to be: collated when it is given, which copies its images."""

    samples: list[Sample]
    skipped: Sequence[Skipped]
    reader: ReaderState

    def batch(self) -> Batch:
        bad = Counter(one.reason for one in self.skipped)
        skipped = [(one.where, one.reason) for one in self.skipped]
        return Batch.of(self.samples, bad=bad, skipped=skipped, reader=self.reader)


class BatchStream(IterableDataset):
    """Batches from a stream of samples.

    Each `Batch` carries what was skipped since the batch before, and a `ReaderState`. A full batch waits for
    the next good sample, so that the last one carries what was skipped up to the end. Give it to a DataLoader
    with `batch_size=None`.

    With a `sort_window`, the samples of so many batches are read, sorted by length and cut into batches, and
    these are shuffled. The shuffle depends on the seed, the worker and the window's number: at each step, the
    batches of all ranks had the same place among the sorted ones, so none waits for another's long one. The
    next window is read while this one is given, a batch for a batch. Resuming within a window reads it again.

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
        sort_window: how many batches are made of samples read together; above 1, it needs `prompts`.
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
        sort_window: int = 1,
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
        self.sort_window = sort_window

    def __iter__(self) -> Iterator[Batch]:
        process, workers = this_worker()
        worker = (process + self.first_worker) % workers
        start = ReaderState(**self.resume[worker]) if self.resume else ReaderState(worker)
        ready: deque[_Ready] = deque()
        given = start.given  # of the first window
        for window in self._windows(start, self.reading.share(worker, workers)):
            if window is not None:
                ready.extend(islice(self._sorted(window), given, None))
                given = 0
            if ready:
                yield ready.popleft().batch()
        yield from (one.batch() for one in ready)

    def _windows(self, start: ReaderState, share: Reading) -> Iterator["_Window | None"]:
        """The windows, once they are complete; None after each batch's samples before that."""
        # What was skipped in a window that was begun is counted already.
        counting = start.given == 0
        before = replace(start, good=start.good - start.given * self.batch_size, given=0)
        samples: list[Sample] = []
        unreported: list[Skipped] = []
        good, bad, position = before.good, Counter(start.bad), start.position
        end = last = "the last shard"
        for read, after in self.stream.read(replace(share, position=position)):
            item = self._checked(read)
            if isinstance(item, Skipped):
                if counting:
                    unreported.append(self._count(item, bad))
                position, last = after, item.where
                if good + bad.total() >= MIN_SEEN:
                    self._limit(good, bad, last)
                continue
            if len(samples) == self.batch_size * self.sort_window:
                state = ReaderState(start.worker, good, dict(bad), position)
                yield _Window(samples, unreported, before, state)
                samples, unreported, before, counting = [], [], state, True
            elif samples and len(samples) % self.batch_size == 0:
                yield None
            good += 1
            samples.append(item)
            position, last = after, end
            if good == self.limit:
                break
        if bad:
            self._limit(good, bad, last)
        if samples:
            yield _Window(samples, unreported, before, ReaderState(start.worker, good, dict(bad), position))

    def _sorted(self, window: "_Window") -> Iterator["_Ready"]:
        """The batches of a window."""
        samples, before, after, size = window.samples, window.before, window.after, self.batch_size
        if len(samples) > size:
            samples = sorted(samples, key=self._length)
        batches = [samples[start : start + size] for start in range(0, len(samples), size)]
        number = before.good // (size * self.sort_window)
        random.Random(f"{self.reading.seed}/{after.worker}/{number}").shuffle(batches)
        for given, batch in enumerate(batches, 1):
            within = replace(after, good=before.good + given * size, position=before.position, given=given)
            skipped = window.skipped if given == 1 else ()
            yield _Ready(batch, skipped, after if given == len(batches) else within)

    def _length(self, sample: Sample) -> int:
        """In tokens, images included."""
        assert self.prompts is not None
        return sum(self.prompts.lengths(sample.dialogue.requested(self.prompts.requests[0])))

    def _count(self, item: Skipped, bad: Counter) -> Skipped:
        """What is reported of it: of too many reasons, the rarer ones are counted together."""
        reason = item.reason if item.reason in bad or len(bad) < MAX_REASONS else OTHER_REASONS
        if reason not in bad:
            log.warning(
                "skipped %s: %s (the first of this kind; more are only counted)", item.where, item.reason
            )
        bad[reason] += 1
        return replace(item, reason=reason)

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

"""Who reads what, and that a stopped run goes on with exactly the batches it would have seen."""

import json
import logging
import random
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError
from minigpt4.datasets.datasets import webdataset_stream
from minigpt4.datasets.datasets.caption import CCSBUAlignDataset
from minigpt4.datasets.datasets.shard_order import parts_of_epoch
from minigpt4.datasets.datasets.shard_reader import RawSample
from minigpt4.datasets.datasets.webdataset_stream import caption_dialogue
from minigpt4.datasets.mixing import TrainStream
from minigpt4.datasets.source import TrainSource
from minigpt4.datasets.stream import Reading, SampleStream, Skipped
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from tests.support.shards import (
    encoded,
    numbers,
    picture,
    sample,
    sorted_out,
    stream,
    write_good,
    write_shard,
)


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch) -> None:
    """Smaller than a shard, so that reading, drawing and emptying all take turns."""
    monkeypatch.setattr("minigpt4.datasets.datasets.shard_order.SHUFFLE_BUFFER", 8)


def epochs_of(dataset: SampleStream, readers: int, epochs: int) -> list[list[Any]]:
    """What all readers together read in each of the first epochs, by the positions that they give."""
    read: list[list[Any]] = [[] for _ in range(epochs)]
    for reader in range(readers):
        for item, (epoch, *_) in dataset.read(Reading(training=True, reader=reader, readers=readers)):
            if epoch >= epochs:
                break
            read[epoch].append(item)
    return read


@pytest.mark.parametrize("shards", [1, 2, 7])
@pytest.mark.parametrize(("ranks", "workers"), [(r, w) for r in (1, 2, 3) for w in (0, 1, 2, 3)])
def test_each_epoch_is_everything_once_over_all_readers(tmp_path, shards, ranks, workers) -> None:
    """Fewer shards than readers too: then each is read by several, who divide its samples."""
    everything = stream(write_good(tmp_path, shards, each=11))
    for read in epochs_of(everything, ranks * max(workers, 1), epochs=3):
        assert sorted(numbers(read)) == list(range(shards * 11))


@pytest.mark.parametrize("readers", [1, 2, 5])
def test_what_is_bad_is_counted_once_per_epoch(tmp_path, readers) -> None:
    shards, reasons = damaged_shards(tmp_path)
    for read in epochs_of(stream(shards), readers, epochs=3):
        good, bad = sorted_out(read)
        assert sorted(numbers(good)) == list(range(30)) and bad == reasons


def damaged_shards(folder: Path) -> tuple[list[str], Counter[str]]:
    """30 good samples in two shards, beside one of each kind of trouble."""
    shards = []
    for part in (0, 1):
        members = [
            sample(f"{n:05d}", encoded(picture(n)), f"picture {n}") for n in range(15 * part, 15 * part + 15)
        ]
        members.insert(4, sample("broken", b"no picture"))
        members.insert(9, sample("silent", caption=None))
        shards.append(write_shard(folder / f"{part}.tar", [file for files in members for file in files]))
    data = Path(shards[1]).read_bytes()
    (folder / "cut.tar").write_bytes(data[:700])
    (folder / "noise.tar").write_bytes(b"not a tar " * 200)
    write_shard(folder / "empty.tar", [])
    broken = [str(folder / f"{name}.tar") for name in ("cut", "noise", "empty", "missing")]
    reasons = Counter({"broken image": 2, "no caption": 2, "truncated shard": 1, "damaged shard": 1})
    return [*shards, *broken, "pipe:exit 3"], reasons + Counter(
        {"empty shard": 1, "missing shard": 1, "unreadable shard": 1}
    )


class OneSource(TrainStream):
    """A stream of one data set, which the tests below ask for its state."""

    def __init__(self, dataset: SampleStream, workers: int = 0, name: str = "cc", **options: Any) -> None:
        arguments = {"seed": 0, "rank": 0, "world_size": 1, "name": name} | options
        self.source = TrainSource(dataset, 4, workers=workers, **arguments)
        how = {"max_bad_fraction": 1.0, "pin_memory": False, "workers": workers}
        super().__init__({name: self.source}, [1], 0, self.source.given, **how)

    def state(self) -> dict[str, Any]:
        return self.source.state()


def test_two_processes_read_disjoint_halves(tmp_path) -> None:
    """Workers are processes: two of them, and two of each of two ranks."""
    halves = stream(write_good(tmp_path, shards=4, each=8))
    first, second = ([] for _ in range(2))
    for number, batch in enumerate(islice(OneSource(halves, workers=2), 8)):
        (first, second)[number % 2].extend(numbers(batch.answers))
    assert set(first).isdisjoint(second) and sorted(first + second) == list(range(32))
    read = []
    for rank in (0, 1):
        for batch in islice(OneSource(halves, workers=2, rank=rank, world_size=2), 4):
            read += numbers(batch.answers)
    assert sorted(read) == list(range(32))


def test_parts_of_epoch_are_dealt_evenly() -> None:
    for shards, readers in ((1, 4), (3, 4), (7, 3), (1256, 8)):
        taken = []
        for reader in range(readers):
            reading = Reading(training=True, reader=reader, readers=readers)
            taken.append(sum(len(parts_of_epoch(shards, epoch, reading)) for epoch in range(12)))
        assert max(taken) - min(taken) <= 1 and min(taken) > 0


class DrawingAlignDataset(CCSBUAlignDataset):
    """Puts a number that it draws before each caption."""

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        return super().sample(entry | {"caption": f"{rng.random()} {entry['caption']}"}, rng)


def drawing_dialogue(raw: RawSample, rng: random.Random) -> Dialogue:
    """A question with a number that it draws, and the caption."""
    question = f"<Img><ImageHere></Img> {rng.random()}?"
    return Dialogue.of([(question, caption_dialogue(raw).answer)])


def align(folder: Path) -> CCSBUAlignDataset:
    """A folder of eleven pictures, of which one is missing and one broken."""
    (folder / "image").mkdir()
    for number in range(10):
        (folder / "image" / f"{number}.jpg").write_bytes(encoded(picture(number)) if number else b"broken")
    entries = [{"image_id": n, "caption": f"picture {n}"} for n in range(11)]
    (folder / "filter_cap.json").write_text(json.dumps({"annotations": entries}))
    like = stream([])
    return DrawingAlignDataset(like.image_transform, str, folder / "image", [folder / "filter_cap.json"])


def shards_or_folder(kind: str, folder: Path) -> SampleStream:
    """A data set that draws for each sample."""
    if kind == "folder":
        return align(folder)
    return stream(damaged_shards(folder)[0], dialogue=drawing_dialogue)


@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_draws_belong_to_seed_epoch_and_entry_whoever_reads(tmp_path, kind) -> None:
    dataset = shards_or_folder(kind, tmp_path)

    def draws(training: bool, seed: int, readers: int = 1) -> dict[str, list[Dialogue]]:
        """What is said of each sample, epoch by epoch; of all readers together."""
        said = defaultdict(list)
        for reader in range(readers):
            reading = Reading(training=training, seed=seed, reader=reader, readers=readers)
            for item, _ in islice(dataset.read(reading), 90 // readers):
                if not isinstance(item, Skipped):
                    said[item.image_id].append(item.dialogue)
        return said

    once, again = draws(training=True, seed=3), draws(training=True, seed=3)
    assert once == again
    first, second = next(iter(once.values()))[:2]
    assert first != second  # each epoch draws anew
    assert len({str(dialogues[0]) for dialogues in once.values()}) == len(once)  # and each entry for itself
    several = draws(training=True, seed=3, readers=3)
    for image_id, dialogues in several.items():
        assert {*dialogues} & {*once[image_id]}
    assert draws(training=True, seed=4) != once
    fixed = draws(training=False, seed=0)
    assert fixed == draws(training=False, seed=0) == draws(training=False, seed=0, readers=2)


def same(first: Batch, second: Batch) -> bool:
    images = torch.equal(first.images, second.images)
    return images and replace(first, images=None) == replace(second, images=None)


@pytest.mark.parametrize("kind", ["shards", "folder"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
def test_resumed_at_any_step_the_batches_are_the_same(tmp_path, kind, workers) -> None:
    """Pixels, captions, ids and counts of bad ones, over several epochs."""
    dataset = shards_or_folder(kind, tmp_path)
    steps, after = 60, 4
    whole = OneSource(dataset, workers, seed=3)
    batches, states = [], [whole.state()]
    for batch in islice(whole, steps + after):
        batches.append(batch)
        states.append(json.loads(json.dumps(whole.state())))
    assert sum((Counter(b.bad) for b in batches), Counter()) == whole.bad()
    assert len(whole.bad()) == (2 if kind == "folder" else 7)
    for step in range(steps) if not workers else random.Random(workers).sample(range(steps), 5):
        resumed = OneSource(dataset, workers, seed=3, state=states[step])
        assert not resumed.source.reordered
        for expected, batch in zip(batches[step:], islice(resumed, after), strict=False):
            assert same(expected, batch)
        assert json.loads(json.dumps(resumed.state())) == states[step + after]


def test_a_resume_decodes_nothing_that_was_seen_and_reads_no_shard_that_is_through(
    tmp_path, monkeypatch
) -> None:
    dataset = stream(write_good(tmp_path, shards=20, each=20))
    opened, decoded = [], []
    read, transform = webdataset_stream.read_shard, dataset.image_transform
    monkeypatch.setattr(webdataset_stream, "read_shard", lambda shard: opened.append(shard) or read(shard))
    dataset.image_transform = lambda image: decoded.append(1) or transform(image)
    whole = OneSource(dataset)
    (*_, last) = islice(whole, 280)  # 1,120 samples, 800 of them in epochs that are over
    state = whole.state()
    following = next(iter(OneSource(dataset, state=state)))
    opened.clear()
    decoded.clear()
    resumed = next(iter(OneSource(dataset, state=state)))
    assert resumed.answers == following.answers != last.answers
    assert len(decoded) == 5  # a batch, and the sample that it waited for
    assert len(opened) <= 4  # the one that was begun, and what still lay in the buffer


def test_a_shard_that_has_shrunk_since_is_counted(tmp_path) -> None:
    """What lay in the buffer and is gone is bad; the run goes on."""
    shards = write_good(tmp_path, shards=3, each=9)
    dataset = stream(shards)
    whole = OneSource(dataset)
    (*_, state) = (whole.state() for _ in islice(whole, 3))
    for shard in shards:
        write_shard(Path(shard), sample("a", caption="picture 0"))
    bad = Counter()
    for batch in islice(OneSource(dataset, state=state), 3):
        bad.update(batch.bad)
    assert bad["shard changed"] > 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workers": 2}, "workers: 1 before, 2 now"),
        ({"world_size": 2}, "ranks: 1 before, 2 now"),
        ({"seed": 9}, "seed: 0 before, 9 now"),
        ({"shards": 2}, "shards or entries: 3 before, 2 now"),
    ],
)
def test_other_readers_begin_a_new_order_and_say_so(tmp_path, caplog, change, reason) -> None:
    shards = write_good(tmp_path, shards=3, each=20)
    whole = OneSource(stream(shards))
    first = [batch.answers for batch in islice(whole, 4)]
    state = whole.state()
    other = stream(shards[: change.pop("shards", 3)])
    resumed = OneSource(other, state=state, **change)
    assert resumed.source.reordered == reason
    with caplog.at_level(logging.INFO):
        resumed.describe({"cc", "laion"})
    assert f"cc is read in a new order, since the checkpoint's cannot be resumed ({reason})" in caplog.text
    assert "laion was removed since the checkpoint" in caplog.text
    answers = [batch.answers for batch in islice(resumed, 4)]
    assert answers != first
    # What goes on with the new order stays in it.
    again = OneSource(other, state=resumed.state(), **change)
    assert not again.source.reordered and again.source.reading == resumed.source.reading
    assert next(iter(again)).answers not in answers


def test_a_state_that_an_earlier_version_wrote_is_resumed(tmp_path) -> None:
    """As the version before typed samples wrote it into a checkpoint, and what it read next."""
    state = {
        "order": {"seed": 3, "shards or entries": 3, "ranks": 1, "workers": 1},
        "new_orders": 0,
        "given": 9,
        "readers": [{"worker": 0, "good": 36, "bad": {}, "position": [1, 9, [9]]}],
    }
    resumed = OneSource(stream(write_good(tmp_path, shards=3, each=9)), seed=3, state=state)
    assert not resumed.source.reordered
    assert [[int(one) for one in batch.image_ids] for batch in islice(resumed, 3)] == [
        [11, 12, 15, 17],
        [13, 18, 22, 5],
        [19, 23, 7, 26],
    ]


@pytest.mark.parametrize("kind", ["shards", "folder"])
@pytest.mark.parametrize(
    "damage",
    [
        {"readers": "all"},
        {"readers": []},
        {"readers": [7]},
        {"readers": [{"worker": 0, "good": "36"}]},
        {"readers": [{"worker": 0, "bad": {"broken image": None}}]},
        *[
            {"readers": [{"worker": 0, "position": one}]}
            for one in ("x", -1, [1, 2, [], 4], [1, 2, "x"], [1, -2, [9]])
        ],
        {"readers": [{"worker": 0, "position": [0, 0, [10**30]]}]},
        {"given": None},
        {"new_orders": "1"},
        {"order": 5},
    ],
)
def test_a_state_that_is_damaged_is_one_line(tmp_path, kind, damage) -> None:
    dataset = shards_or_folder(kind, tmp_path)
    state = OneSource(dataset, seed=3).state()
    with pytest.raises(CheckpointError, match=r"^run\.resume_ckpt_path: "):
        next(iter(OneSource(dataset, seed=3, state=state | damage)))


def test_more_readers_than_shards_are_told(tmp_path, caplog) -> None:
    few = stream(write_good(tmp_path, shards=3, each=8))
    with caplog.at_level(logging.INFO):
        OneSource(few, workers=2, world_size=2, name="cc.train").describe([])
    assert "cc.train: 4 readers share 3 shards or entries" in caplog.text


def test_zero_workers_and_one_read_the_same(tmp_path) -> None:
    dataset = stream(write_good(tmp_path, shards=2, each=10))
    here, there = OneSource(dataset), OneSource(dataset, workers=1)
    for first, second in zip(islice(here, 9), islice(there, 9), strict=True):
        assert same(first, second)
    assert here.state() == there.state()

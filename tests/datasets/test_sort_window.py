"""Batches of samples of like length: what is padded, what ranks get at the same step, and resuming."""

from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any

import pytest
from transformers import AutoTokenizer

from minigpt4.datasets.mixing import TrainStream
from minigpt4.datasets.source import TrainSource
from minigpt4.datasets.stream import Reading, SampleStream, Skipped
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.templates import GEMMA
from tests.support.families import TINY

SIZE, WINDOW = 4, 8


@pytest.fixture(scope="module")
def prompts() -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(TINY / "gemma"), 2, 8, GEMMA, 300, 1000)


class Answers(SampleStream):
    """Endless samples of 2 to 200 words; every seventh is bad."""

    size = 1

    def read(self, reading: Reading) -> Iterator[tuple[Sample | Skipped, Any]]:
        position = reading.position or 0
        while True:
            number = reading.reader + position * reading.readers
            words = int(2 * 100 ** reading.rng(0, number).random())
            position += 1
            if number % 7 == 3:
                yield Skipped("seventh", str(number)), position
                continue
            dialogue = Dialogue.of([("what?", " ".join(["red"] * words))])
            yield Sample(dialogue=dialogue, image_id=str(number)), position


def source(window: int = WINDOW, workers: int = 0, state: Any = None, **options: Any) -> TrainSource:
    arguments = {"seed": 0, "rank": 0, "world_size": 1} | options
    return TrainSource(Answers(), SIZE, workers=workers, sort_window=window, state=state, **arguments)


def read(one: TrainSource, prompts: PromptEncoder, count: int, workers: int = 0) -> list[tuple[Batch, Any]]:
    """The next batches, each with the state after it."""
    options = {"max_bad_fraction": 1.0, "pin_memory": False, "workers": workers, "prompts": prompts}
    with TrainStream({"a": one}, [1], 0, one.given, **options) as stream:
        return [(batch, one.state()) for batch in islice(stream, count)]


def ids(batches: list[tuple[Batch, Any]]) -> list[list[str]]:
    return [batch.image_ids for batch, _ in batches]


def padded(batches: list[tuple[Batch, Any]], prompts: PromptEncoder) -> float:
    """Places of all batches that are computed, per token."""
    encoded = [prompts.encode(batch.dialogues).attention_mask for batch, _ in batches]
    return sum(mask.numel() for mask in encoded) / sum(int(mask.sum()) for mask in encoded)


def test_windows_hold_the_samples_that_were_read_together(prompts) -> None:
    count = 3 * WINDOW
    plain, alike = (read(source(window), prompts, count) for window in (1, WINDOW))
    for window in range(3):
        here = slice(WINDOW * window, WINDOW * (window + 1))
        names = [sorted(chain.from_iterable(ids(one[here]))) for one in (plain, alike)]
        assert names[0] == names[1]
        skipped = sum(batch.bad.get("seventh", 0) for batch, _ in plain[here])
        assert [batch.bad for batch, _ in alike[here]] == [{"seventh": skipped}, *[{}] * (WINDOW - 1)]
    assert ids(alike) == ids(read(source(), prompts, count)) != ids(plain)
    assert alike[-1][1]["readers"] == plain[-1][1]["readers"]  # position and counts


def test_less_is_padded(prompts) -> None:
    plain, alike = (padded(read(source(window), prompts, 4 * WINDOW), prompts) for window in (1, WINDOW))
    assert plain > 1.8 and alike < 1.2


def test_batches_of_a_window_come_in_random_order(prompts) -> None:
    lengths = [len(batch.answers[0]) for batch, _ in read(source(), prompts, 4 * WINDOW)]
    orders = {tuple(sorted(range(WINDOW), key=lengths[start:].__getitem__)) for start in range(0, 32, WINDOW)}
    assert len(orders) == 4


def test_ranks_get_batches_of_like_length_at_the_same_step(prompts) -> None:
    ranks = [read(source(rank=rank, world_size=2), prompts, 6 * WINDOW) for rank in (0, 1)]
    assert not {name for batch in ids(ranks[0]) for name in batch} & {n for b in ids(ranks[1]) for n in b}
    for start in range(0, 6 * WINDOW, WINDOW):
        means = [[sum(map(len, batch.answers)) for batch, _ in one[start : start + WINDOW]] for one in ranks]
        first, second = (sorted(range(WINDOW), key=mean.__getitem__) for mean in means)
        assert first == second


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.integration)])
def test_a_run_resumes_within_a_window(prompts, workers) -> None:
    count = 3 * WINDOW
    whole = read(source(workers=workers), prompts, count, workers)
    for stop in (1, WINDOW + 3) if workers else (1, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW + 3):
        resumed = source(workers=workers, state=whole[stop - 1][1])
        rest = read(resumed, prompts, count - stop, workers)
        assert ids(rest) == ids(whole)[stop:] and not resumed.reordered
        assert [state for _, state in rest] == [state for _, state in whole[stop:]]


def test_another_window_or_batch_size_is_a_new_order(prompts) -> None:
    state = read(source(), prompts, 3)[-1][1]
    told = f"windows: {WINDOW} batches of {SIZE} before, "
    assert source(2, state=state).reordered == f"{told}2 batches of {SIZE} now"
    assert source(1, state=state).reordered == f"{told}none now"
    plain = read(source(1), prompts, 3)[-1][1]
    assert source(state=plain).reordered == f"windows: none before, {WINDOW} batches of {SIZE} now"
    del plain["order"]["windows"]  # of a checkpoint that knew none
    assert source(1, state=plain).reordered == ""
    assert TrainSource(
        Answers(), 2, seed=0, rank=0, world_size=1, workers=0, sort_window=WINDOW, state=state
    ).reordered.endswith("batches of 2 now")


def test_samples_of_the_next_window_are_read_while_one_is_given(prompts, monkeypatch) -> None:
    """As many samples come in as go out: between two batches, there is no pause of a window's length."""
    came = []
    take = Answers.read

    def counting(self: Answers, reading: Reading) -> Iterator[tuple[Sample | Skipped, Any]]:
        for item in take(self, reading):
            came.append(item)
            yield item

    monkeypatch.setattr(Answers, "read", counting)
    options = {"max_bad_fraction": 1.0, "pin_memory": False, "workers": 0, "prompts": prompts}
    before = []
    for _ in islice(TrainStream({"a": source()}, [1], 0, 0, **options), 3 * WINDOW):
        before.append(len(came))
    steps = [after - now for now, after in pairwise(before)]
    assert before[0] > SIZE * WINDOW and max(steps) <= 2 * SIZE

"""What the model's prompts refuse is skipped and counted, before it is in a batch."""

import pickle
from collections import Counter
from itertools import islice

import pytest
import torch

from minigpt4.common.errors import BadSample, DataError
from minigpt4.datasets import collate
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.mixing import TrainStream
from minigpt4.datasets.source import TrainSource
from minigpt4.datasets.stream import Skipped
from minigpt4.prompts.context import fitted
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from tests.support.golden import build_golden_model
from tests.support.shards import TRAINING, sample, stream, write_good, write_shard

LONG = "prompt longer than 60 tokens (model.max_context_len is 60)"
PICTURE = torch.zeros(3, 2, 2)


def asked(question: str) -> Dialogue:
    return Dialogue.of([(f"<Img><ImageHere></Img> {question}", "yes")])


@pytest.fixture(scope="module")
def prompts():
    return build_golden_model(max_context_len=60).prompts


@pytest.mark.unit
def test_what_cannot_be_learned_is_refused(prompts) -> None:
    prompts = pickle.loads(pickle.dumps(prompts))  # as workers get it that are not forked
    said = {"what?": asked("what?"), "caption": Dialogue.caption("a long caption is cut " * 1000)}
    for dialogue in said.values():
        one = Sample(dialogue=dialogue, image=PICTURE)
        assert fitted(prompts, one, learn_all=True) is one
    with pytest.raises(BadSample, match=r"^prompt longer than 60 tokens"):
        fitted(prompts, Sample(dialogue=asked("what? " * 100), image=PICTURE), learn_all=True)
    with pytest.raises(BadSample, match=r"^no answer$"):
        fitted(prompts, Sample(dialogue=asked("what?").unanswered(), image=PICTURE), learn_all=True)


@pytest.mark.unit
@pytest.mark.parametrize("kind", ["image", "features"])
def test_turns_that_are_left_out_take_their_images_along(prompts, kind, monkeypatch) -> None:
    turns = [(f"<Img><ImageHere></Img> what is it, number {n}?", "one") for n in range(9)]
    monkeypatch.setattr(prompts, "max_context_len", sum(prompts.lengths(Dialogue.of(turns[:4]))))
    images = torch.arange(9.0).reshape(9, 1, 1, 1).expand(9, 3, 2, 2)
    images = images if kind == "image" else images[:, 0]
    short = fitted(prompts, Sample(dialogue=Dialogue.of(turns), **{kind: images}), learn_all=True)
    kept = [int(turn.text[-2]) for turn in short.dialogue.turns if turn.role == "user"]
    assert kept[0] == 0 and kept[-1] == 8 and len(kept) < 9
    assert [int(image.flatten()[0]) for image in short.images] == kept


@pytest.mark.unit
def test_a_tokenizer_that_fails_costs_one_sample(prompts, monkeypatch) -> None:
    class PanicException(BaseException):
        """As libraries in Rust raise it."""

    def panic(text: str) -> list[int]:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(prompts, "_ids", panic)
    with pytest.raises(DataError, match=r"cannot be tokenised .*PanicException: index out of bounds"):
        fitted(prompts, Sample(dialogue=asked("what?"), image=PICTURE), learn_all=True)


def test_long_dialogues_are_skipped_and_counted(tmp_path, prompts, caplog) -> None:
    members = [
        one for n in range(9) for one in sample(f"{n}", caption="what? " * (100 if n in (3, 7) else 1))
    ]
    shards = [write_shard(tmp_path / "0.tar", members)]
    dataset = stream(shards, dialogue=lambda raw, rng: asked(raw.text("txt")))
    batches = list(BatchStream(dataset, 4, prompts=prompts))
    assert [batch.image_ids for batch in batches] == [["0", "1", "2", "4"], ["5", "6", "8"]]
    assert sum((Counter(batch.bad) for batch in batches), Counter()) == {LONG: 2}
    assert [line.getMessage().split(" (the")[0] for line in caplog.records] == [f"skipped 3: {LONG}"]
    source = TrainSource(dataset, 3, seed=0, rank=0, world_size=1, workers=0)
    how = {"max_bad_fraction": 0.5, "workers": 0, "pin_memory": False, "prompts": prompts}
    stream_of_one = TrainStream({"one": source}, [1], 0, **how)
    read = {key for batch in islice(stream_of_one, 12) for key in batch.image_ids}
    assert read == {"0", "1", "2", "4", "5", "6", "8"}
    assert source.bad()[LONG] >= 8


@pytest.mark.unit
def test_many_kinds_of_reasons_are_counted_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(collate, "MAX_REASONS", 3)
    dataset = stream(write_good(tmp_path, shards=1, each=4))
    read = dataset.read
    odd = ((Skipped(f"reason {n}", "x"), (0, n, ())) for n in range(6))
    monkeypatch.setattr(dataset, "read", lambda reading: [*odd, *islice(read(reading), 4)])
    (batch,) = BatchStream(dataset, 4, 0.9, reading=TRAINING)
    assert batch.bad == {"reason 0": 1, "reason 1": 1, "reason 2": 1, "other reasons": 3}

"""The loop that every task shares: what of a batch is asked for, kept and shown."""

from dataclasses import replace

import pytest
import torch

from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.templates import IMAGE_TURN
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from minigpt4.tasks.records import Limits, Metrics, Record

IMAGE = IMAGE_TURN.strip()


def sample(number: int, dialogue: Dialogue, count: int = 1) -> Sample:
    pixels = torch.full((count, 3, 56, 56), number, dtype=torch.uint8)
    return Sample(
        dialogue=dialogue, image=pixels, image_id=str(number), group="even" if number % 2 == 0 else ""
    )


class Noting(BaseTask):
    """Remembers how many predictions it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def score(self, model, batch: Batch, records: list[Record], predictions: int) -> None:
        assert not model.training and not torch.is_grad_enabled()
        self.asked.append((len(batch), predictions))

    def summarize(self, records: list[Record]) -> Metrics:
        return Metrics({"count": len(records)}, best="count")


@pytest.fixture
def batches() -> list[Batch]:
    """Seven captions in batches of three."""
    samples = [sample(number, Dialogue.caption(f"number {number % 4}")) for number in range(7)]
    return [Batch.of(samples[start : start + 3], bad={"broken image": 1}) for start in (0, 3, 6)]


@pytest.mark.parametrize(
    ("predictions", "asked"),
    [
        (None, [(3, 3), (3, 3), (1, 1)]),
        (4, [(3, 3), (3, 1), (1, 0)]),
        (0, [(3, 0), (3, 0), (1, 0)]),
        (99, [(3, 3), (3, 3), (1, 1)]),
    ],
)
def test_evaluate_asks_for_predictions_up_to_the_limit(golden_model, batches, predictions, asked) -> None:
    task = Noting()
    records = task.evaluate(golden_model, batches, Limits(predictions=predictions))
    assert task.asked == asked
    assert [(one.image_id, one.group, one.truth) for one in records] == [
        (str(n), "" if n % 2 else "even", f"number {n % 4}") for n in range(7)
    ]


def test_evaluate_keeps_the_first_pictures(golden_model, batches) -> None:
    records = Noting().evaluate(golden_model, batches, Limits(pictures=4))
    kept = [one.picture for one in records if one.picture is not None]
    assert len(kept) == 4 and all(one.picture is None for one in records[4:])
    assert [(picture.shape, picture.max()) for picture in kept] == [((56, 56, 3), n) for n in range(4)]
    assert all(one.picture is None for one in Noting().evaluate(golden_model, batches))


def test_evaluate_leaves_the_model_in_its_mode_and_tells_what_was_skipped(
    golden_model, batches, caplog
) -> None:
    golden_model.train()
    Noting().evaluate(golden_model, batches)
    assert golden_model.training and "{'broken image': 3}" in caplog.text
    golden_model.eval()
    Noting().evaluate(golden_model, batches)
    assert not golden_model.training


def test_records_say_what_was_asked(golden_model) -> None:
    """The last question, without the images that stand before it."""
    dialogues = [
        (Dialogue.of([(f"{IMAGE} What?", "a"), (f"{IMAGE} and {IMAGE}?", "b")]), 3),
        (Dialogue.of([(f"On {IMAGE}, who?", "c")]), 1),
        (Dialogue.of([("Why", "d")]), 0),
        (Dialogue.caption("e"), 1),
    ]
    samples = [sample(0, dialogue, count) for dialogue, count in dialogues if count]
    samples.append(Sample(dialogue=dialogues[2][0]))
    records = Noting().evaluate(golden_model, [Batch.of(samples)], Limits(pictures=9))
    assert [(one.prompt, one.truth) for one in records] == [
        *(("and <image>?", "b"), ("On <image>, who?", "c"), (None, "e"), ("Why", "d")),
    ]
    assert [one.picture is None for one in records] == [False, False, False, True]


def test_image_text_pretrain_takes_the_loss_of_each_sample(golden_model, batches) -> None:
    """The loss that the model has of it alone; the batch's mean is over all tokens."""
    task = ImageTextPretrainTask()
    records = task.evaluate(golden_model, batches[:1], Limits(predictions=1))
    for row, record in enumerate(records):
        alone, tokens = golden_model.token_losses(
            golden_model.prepare(batches[0].rows([row]), evaluation=True)
        )
        assert record.tokens == tokens.targets == len(alone)
        assert record.loss == pytest.approx(alone.mean().item(), rel=1e-5)
    assert [record.prediction is None for record in records] == [False, True, True]
    with torch.no_grad():
        whole = golden_model(replace(batches[0], tokens=None))["loss"].item()
    metrics = task.summarize(records)
    assert metrics.values["loss"] == pytest.approx(whole, rel=1e-5)
    assert (metrics.best, metrics.higher_is_better) == ("loss", False)
    assert metrics.percentages == {"exact_match", "exact_match_even"}


def test_predict_where_only_some_samples_have_images(golden_model) -> None:
    """Text alone before pictures: each is answered as it is by itself."""
    text = Sample(dialogue=Dialogue.of([("Why?", "d")]))
    batch = Batch.of([text, sample(200, Dialogue.caption("e"))])
    together = Noting().predict(golden_model, batch, 2)
    assert [
        *Noting().predict(golden_model, batch, 1),
        *Noting().predict(golden_model, batch.rows([1]), 1),
    ] == (together)

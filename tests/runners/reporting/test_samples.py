"""Which records the grid of pictures shows, and where their pictures come from."""

from pathlib import Path

import numpy as np
import torch

from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Batch, Sample
from minigpt4.prompts.templates import IMAGE_TURN
from minigpt4.runners.reporting import plots
from minigpt4.runners.reporting.samples import add_pictures, draw_shown, to_show
from minigpt4.tasks.records import Record


def records_of(asked: list[tuple[str, float]]) -> list[Record]:
    """A record for each (picture, score)."""
    return [
        Record(image_id=str(number), truth="x", cluster=cluster, scores={"accuracy": score})
        for number, (cluster, score) in enumerate(asked)
    ]


def test_to_show_takes_wrong_ones_and_different_pictures_first() -> None:
    asked = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("b", 1.0), ("a", 0.0), ("b", 0.0), ("c", 1.0), ("c", 0.0)]
    assert to_show(records_of(asked)) == [2, 4, 7, 5, 0, 3, 6, 1]


def test_to_show_fills_the_grid() -> None:
    def counts(wrong: int, right: int, parts: int = 1) -> tuple[int, int]:
        records = records_of([(str(n), float(n >= wrong)) for n in range(wrong + right)])
        shown = to_show(records, parts)
        return sum(number < wrong for number in shown), sum(number >= wrong for number in shown)

    assert [counts(11, 5), counts(20, 20), counts(0, 20), counts(3, 2)] == [(11, 5), (12, 4), (0, 16), (3, 2)]
    assert counts(20, 20, parts=2) == (6, 2)
    assert len(to_show([Record(image_id=str(n), truth="x") for n in range(20)])) == 16


def test_add_pictures_finds_them_by_number() -> None:
    records = records_of([(name, 0.0) for name in "abcde"])
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 4, 4)
    samples = [
        Sample(dialogue=Dialogue.prompted(IMAGE_TURN, "x"), image=image, image_id=record.image_id)
        for image, record in zip(images, records, strict=True)
    ]
    batches = iter([Batch.of(samples[:3]), Batch.of(samples[3:]), None])  # the last is not asked for
    add_pictures({1: records[1], 4: records[4]}, batches, lambda image: image.permute(1, 2, 0).numpy())
    shown = [None if record.picture is None else record.picture.max() for record in records]
    assert shown == [None, 1, None, None, 4]


def test_draw_shown_draws_those_with_a_picture(tmp_path: Path, monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(plots, "draw_samples", lambda records, path: drawn.extend(records))
    records = records_of([("a", 1.0), ("b", 0.0), ("c", 0.0)])
    assert not draw_shown(records, tmp_path / "samples.png")
    for record in records[:2]:
        record.picture = np.zeros((8, 8, 3), np.uint8)
    assert draw_shown(records, tmp_path / "samples.png")
    assert [record.cluster for record in drawn] == ["b", "a"]

"""The loss curve: what is in it, and that it is drawn whatever a run's numbers are."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from minigpt4.runners.reporting import plots
from minigpt4.runners.reporting.plots import (
    LINE,
    RIGHT,
    UNKNOWN,
    WRONG,
    draw_histograms,
    draw_loss,
    draw_samples,
)
from minigpt4.tasks.records import Record


def trained(losses: list[float | None]) -> list[dict[str, Any]]:
    return [{"step": 50 * (i + 1), "epoch": 0, "loss": x, "lr": 1e-4 / (i + 1)} for i, x in enumerate(losses)]


def held_out(losses: list[float]) -> list[dict[str, Any]]:
    return [{"step": 100 * (i + 1), "epoch": 0, "valid_loss": x} for i, x in enumerate(losses)]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were drawn, as they are saved."""
    saved, save = [], plots._save
    monkeypatch.setattr(
        plots, "_save", lambda figure, *args, **kw: (saved.append(figure), save(figure, *args, **kw))
    )
    return saved


def curves(figure: Figure) -> dict[str, list[tuple[float, float]]]:
    """Label -> points."""
    return {
        line.get_label(): list(zip(*(map(float, xs) for xs in line.get_data()), strict=True))
        for axis in figure.axes
        for line in axis.get_lines()
    }


def test_draw_loss_of_training_and_of_held_out_data(tmp_path: Path, figures: list[Figure]) -> None:
    records = trained([3.0, 2.0, 1.5, 1.25]) + held_out([2.25, 2.5])
    draw_loss(sorted(records, key=lambda record: record["step"]), tmp_path / "loss.png", "run", best_step=100)
    assert curves(figures[0]) == {
        "training loss": [(50, 3.0), (100, 2.0), (150, 1.5), (200, 1.25)],
        "validation loss": [(100, 2.25), (200, 2.5)],
        "best: 2.25 at step 100": [(100, 2.25)],
        "learning rate": [(50, 1e-4), (100, 1e-4 / 2), (150, 1e-4 / 3), (200, 1e-4 / 4)],
    }
    assert figures[0].get_suptitle() == "run"
    legend = [text.get_text() for text in figures[0].axes[0].get_legend().get_texts()]
    assert legend == list(curves(figures[0]))
    with Image.open(tmp_path / "loss.png") as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (840, 480))


def test_draw_loss_shows_another_metric_on_an_axis_of_its_own(tmp_path: Path, figures: list[Figure]) -> None:
    taken = [{"step": 50 * (i + 1), "valid_accuracy": x} for i, x in enumerate([0.25, None, 0.75, 0.5])]
    draw_loss(trained([2.0, 1.0]) + taken, tmp_path / "loss.png", "run", best_step=150)
    losses, accuracy, _ = figures[0].axes
    assert [line.get_label() for line in losses.get_lines()] == ["training loss"]
    assert (accuracy.get_ylabel(), accuracy.get_yscale(), accuracy.get_xlabel()) == (
        "accuracy",
        "linear",
        "step",
    )
    points, best = (list(zip(*line.get_data(), strict=True)) for line in accuracy.get_lines())
    assert [points[0], *points[2:]] == [(50, 0.25), (150, 0.75), (200, 0.5)] and np.isnan(points[1][1])
    assert best == [(150, 0.75)]
    legend = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert legend == ["validation accuracy", "best: 0.75 at step 150"]


def test_draw_samples_colours_by_scores(tmp_path: Path, figures: list[Figure]) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    right = Record(
        image_id="1", truth="red", prediction="Red.", scores={"accuracy": 1.0, "iou": 0.8}, picture=picture
    )
    half = Record(
        image_id="2", truth="a", prediction="b", scores={"overlap": 0.5, "cider": 1}, picture=picture
    )
    unasked = Record(image_id="3", prompt="which?", truth="c", picture=picture)
    draw_samples([right, half, unasked], tmp_path / "samples.png", columns=2)
    titles = [(axis.get_title("left"), axis._left_title.get_color()) for axis in figures[0].axes]
    assert titles == [
        ("said: Red.\ntrue: red", RIGHT),
        ("said: b\ntrue: a", WRONG),
        ("asked: which?\ntrue: c", UNKNOWN),
        ("", "black"),
    ]


@pytest.mark.parametrize("words", [1, 4, 30])
def test_draw_samples_cuts_no_text_off(tmp_path: Path, figures: list[Figure], words: int) -> None:
    records = [
        Record(image_id="1", prompt="what " * n, truth="a", prediction="b " * n, picture=np.zeros((8, 8, 3)))
        for n in (1, words)
    ]
    draw_samples(records, tmp_path / "samples.png", columns=2)
    for axis in figures[0].axes:
        extent = axis._left_title.get_window_extent()
        assert extent.y1 <= figures[0].bbox.y1 and extent.x1 <= figures[0].bbox.x1


@pytest.mark.parametrize(("shape", "height"), [((32, 64), 1.5), ((64, 32), 3), ((64, 64), 3)])
def test_draw_samples_leaves_no_room_above_wide_pictures(
    tmp_path: Path, figures: list[Figure], shape: tuple[int, int], height: float
) -> None:
    record = Record(image_id="1", truth="a", picture=np.zeros((*shape, 3), np.uint8))
    draw_samples([record], tmp_path / "samples.png", columns=1)
    assert figures[0].get_size_inches().tolist() == [3, pytest.approx(height + LINE)]


def test_draw_loss_without_validation_has_no_curve_of_it(tmp_path: Path, figures: list[Figure]) -> None:
    draw_loss(trained([3.0, 2.0]), tmp_path / "loss.png", "run")
    assert list(curves(figures[0])) == ["training loss", "learning rate"]


def test_draw_loss_shows_small_losses_as_they_are(tmp_path: Path, figures: list[Figure]) -> None:
    draw_loss(trained([4.0, 2e-6, 3e-5, 0.0]), tmp_path / "loss.png", "run")
    drawn = curves(figures[0])["training loss (below 2e-06: drawn there)"]
    assert [loss for _, loss in drawn] == [4.0, 2e-6, 3e-5, 2e-6]


def test_draw_loss_of_a_log_that_was_edited(tmp_path: Path, figures: list[Figure]) -> None:
    odd = [{"step": 200, "loss": "2.0", "lr": None}, {"step": 250, "loss": 10**400, "lr": []}]
    odd += [{"step": 300, "loss": 1.0}, {"step": 350, "valid_loss": {}}, {"step": 400, "valid_accuracy": "0"}]
    draw_loss(trained([4.0, 2.0]) + odd, tmp_path / "loss.png", "run", best_step=350)
    points = curves(figures[0])["training loss"]
    assert points[:2] == [(50, 4.0), (100, 2.0)] and np.isnan([loss for _, loss in points[2:]]).all()


def test_draw_loss_of_many_steps_has_their_running_mean(tmp_path: Path, figures: list[Figure]) -> None:
    losses: list[float | None] = [1.0, 3.0] * 40
    losses[20] = None
    draw_loss(trained(losses), tmp_path / "loss.png", "run")
    drawn = curves(figures[0])
    assert len(drawn["training loss"]) == 80
    smooth = [loss for _, loss in drawn["mean of 8 training losses"]]
    assert smooth[10] == smooth[40] == 2.0
    assert smooth[20] == pytest.approx(15 / 7)  # of the seven that there are


def test_draw_loss_of_zero_does_not_stretch_the_axis(tmp_path: Path, figures: list[Figure]) -> None:
    draw_loss(trained([4.0, 0.5, 1e-12, 0.0]) + held_out([0.0]), tmp_path / "loss.png", "run", best_step=100)
    low, high = figures[0].axes[0].get_ylim()
    assert 1e-5 < low < 1e-4 and 4 < high < 10
    drawn = curves(figures[0])["training loss (below 0.0001: drawn there)"]
    assert drawn[2:] == [(150, 1e-4), (200, 1e-4)]
    assert "best: 0 at step 100" in curves(figures[0])


def test_draw_loss_leaves_gaps_where_losses_are_not_finite(tmp_path: Path, figures: list[Figure]) -> None:
    records = trained([3.0, None, math.nan, math.inf, 2.0]) + held_out([math.inf, 2.5, math.nan])
    draw_loss(records, tmp_path / "loss.png", "run", best_step=200)
    losses = [y for _, y in curves(figures[0])["training loss"]]
    assert np.isnan(losses[1:4]).all() and losses[0] == 3.0 and losses[4] == 2.0
    assert curves(figures[0])["best: 2.5 at step 200"] == [(200, 2.5)]


@pytest.mark.parametrize(
    "records", [[], trained([2.0]), held_out([2.0]), held_out([math.nan]), trained([None])]
)
@pytest.mark.filterwarnings("error")
def test_draw_loss_of_a_single_point(tmp_path: Path, records: list[dict[str, Any]]) -> None:
    draw_loss(records, tmp_path / "loss.png", "run")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (840, 480)


def test_draw_loss_labels_the_axis_with_plain_numbers(tmp_path: Path, figures: list[Figure]) -> None:
    draw_loss(trained([0.9, 0.7]), tmp_path / "loss.png", "run")
    axis = figures[0].axes[0].yaxis
    labels = [label.get_text() for label in axis.get_ticklabels(which="both") if label.get_text()]
    assert {"0.7", "0.8", "0.9"} <= set(labels)


def test_plots_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Record(image_id="1", truth="a", prediction="a", picture=np.zeros((8, 8, 3), np.uint8))

    def fails(self: Figure, path: Path, **_: Any) -> None:
        path.write_bytes(b"half a picture")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fails)
    for draw, content in (
        (partial(draw_loss, title="run"), trained([2.0])),
        (draw_samples, [sample]),
        (draw_histograms, {"words": {1: 2}}),
    ):
        path = tmp_path / "picture.png"
        path.write_bytes(b"the old picture")
        with pytest.raises(OSError, match="No space"):
            draw(content, path)
        assert path.read_bytes() == b"the old picture"
        assert list(tmp_path.iterdir()) == [path]

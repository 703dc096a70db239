"""Boxes on MiniGPT-v2's grid: written, read from what a model says, scaled, compared and drawn."""

import random

import numpy as np
import pytest

from minigpt4.processors.boxes import (
    Box,
    Phrase,
    draw_boxes,
    format_box,
    format_phrase,
    iou,
    parse_boxes,
    parse_phrases,
    split_boxes,
    to_grid,
    to_pixels,
    without_boxes,
)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_format_box_writes_the_published_form() -> None:
    assert format_box(Box(1, 20, 99, 100)) == "{<1><20><99><100>}"
    two = format_phrase("two dogs", [Box(2, 30, 45, 90), Box(50, 28, 99, 91)])
    assert two == "<p>two dogs</p> {<2><30><45><90>}<delim>{<50><28><99><91>}"


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("{<1><20><99><100>}", [(1, 20, 99, 100)]),
        ("It is at {<1><2><3><4>} and {<5><6><7><8>}.", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("{<1><2><3><4>}<delim>{<5><6><7><8>}", [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ("{ <1> < 2 ><3> <4>}", [(1, 2, 3, 4)]),  # as tokenizers may space it
        ("{<0><0><0><0>}", [(0, 0, 0, 0)]),
        ("{<1><2><3><101>}", []),  # off the grid
        ("{<9><2><3><4>}", []),  # corners swapped
        ("{<1><2><3>}", []),
        ("{<1><2><3><4><5>}", []),
        ("{<-1><2><3><4>}", []),
        ("{<1><2><3><4000000000000000000000>}", []),
        ("{<١><٢><٣><٤>}", []),  # digits, but not these
        ("<1><2><3><4>", []),
        ("", []),
    ],
)
def test_parse_boxes_reads_boxes_and_nothing_else(text: str, boxes: list[tuple[int, ...]]) -> None:
    assert parse_boxes(text) == [Box(*box) for box in boxes]


def test_parse_phrases_gives_phrases_with_their_boxes_and_places() -> None:
    dogs, tree = "<p>Two dogs</p> {<1><2><3><4>}<delim>{<5><6><7><8>}", "<p>a tree</p> {<9><9><10><10>}"
    text = f"{dogs} by {tree}, <p>no box</p>."
    first, second = parse_phrases(text)
    assert first == Phrase("Two dogs", (Box(1, 2, 3, 4), Box(5, 6, 7, 8)), 0, text.index(" by "))
    assert second.text == "a tree" and second.boxes == (Box(9, 9, 10, 10),)
    assert (text[first.start : first.end], text[second.start : second.end]) == (dogs, tree)
    assert without_boxes(text) == "Two dogs by a tree, no box."


def test_parse_phrases_leaves_out_what_is_not_on_the_grid() -> None:
    (phrase,) = parse_phrases(
        "<p>a</p> {<1><2><3><999>} {<1><2><3><4>} <p>b</p> {<1><2><3><999>} <p><p>c</p>"
    )
    assert (phrase.text, phrase.boxes) == ("a", (Box(1, 2, 3, 4),))


def test_split_boxes_keeps_the_order_and_loses_only_boxes_off_the_grid() -> None:
    boxes, swapped = "{<1><2><3><4>}<delim>{<5><6><7><8>}", "<p>no box</p> {<7><0><1><0>}"
    text = f"See {boxes} and <p>a cat</p> {{<9><9><10><10>}}, {swapped}."
    parts = split_boxes(text)
    assert [part if isinstance(part, str) else (part.text, part.boxes) for part in parts] == [
        "See ",
        ("", (Box(1, 2, 3, 4), Box(5, 6, 7, 8))),
        " and ",
        ("a cat", (Box(9, 9, 10, 10),)),
        f", {swapped}.",
    ]
    whole = [part if isinstance(part, str) else text[part.start : part.end] for part in parts]
    assert "".join(whole) == text
    assert split_boxes("") == []


def test_parse_phrases_reads_what_format_phrase_wrote() -> None:
    rng = random.Random(0)
    for _ in range(200):
        corners = [sorted(rng.choices(range(101), k=2)) for _ in range(6)]
        boxes = tuple(Box(x[0], y[0], x[1], y[1]) for x, y in zip(corners[::2], corners[1::2], strict=True))
        (phrase,) = parse_phrases(f"See {format_phrase('a cat', boxes)} there")
        assert (phrase.text, phrase.boxes) == ("a cat", boxes)


@pytest.mark.parametrize("text", ["{" * 100_000, "{<1" * 30_000, "<p>" * 30_000, "<p>" + "a" * 100_000])
def test_parsing_ends_for_hostile_text(text: str) -> None:
    assert parse_boxes(text) == [] == parse_phrases(text)


def test_to_grid_rounds_down_as_the_original() -> None:
    """`int(x / width * 100)`, in float64: 29 of 100 pixels is 28 (0.29 * 100 is 28.999…)."""
    assert to_grid((0, 0, 640, 480), (480, 640)) == (0, 0, 100, 100)
    assert to_grid((29, 29, 57, 58), (100, 100)) == (28, 28, 56, 57)
    assert to_grid((10.5, 20.9, 639.9, 479.9), (480, 640)) == (1, 4, 99, 99)
    height, width = 333, 517
    rng = random.Random(1)
    for _ in range(500):
        x1, x2 = sorted(rng.uniform(0, width) for _ in range(2))
        y1, y2 = sorted(rng.uniform(0, height) for _ in range(2))
        expected = tuple(
            int(at / side * 100) for at, side in ((x1, width), (y1, height), (x2, width), (y2, height))
        )
        assert to_grid((x1, y1, x2, y2), (height, width)) == expected


def test_to_grid_keeps_boxes_on_the_picture() -> None:
    assert to_grid((-5, -0.1, 700, 481), (480, 640)) == (0, 0, 100, 100)
    for box in ((float("nan"), 0, 1, 1), (0, 0, float("inf"), 1), (5, 0, 1, 1), (0, 5, 1, 1), (0, 0, 1)):
        with pytest.raises(ValueError, match=r"is not a box|zip"):
            to_grid(box, (480, 640))


def test_to_pixels_inverts_the_grid_within_a_percent() -> None:
    assert to_pixels(Box(0, 50, 25, 100), (480, 640)) == (0, 240, 160, 480)
    for at in range(101):
        back = to_grid(
            [coordinate + 1e-6 for coordinate in to_pixels(Box(at, at, at, at), (480, 640))], (480, 640)
        )
        assert back == (at, at, at, at)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (10, 10, 20, 20), 0.0),
        ((0, 0, 10, 10), (2, 2, 4, 4), 0.04),
        ((3, 3, 3, 3), (3, 3, 3, 3), 0.0),
        ((0.5, 0.5, 1.5, 1.5), (1.0, 1.0, 2.0, 2.0), 0.25 / 1.75),
    ],
)
def test_iou_is_the_shared_part(a: tuple, b: tuple, expected: float) -> None:
    assert iou(a, b) == pytest.approx(expected) == pytest.approx(iou(b, a))


def test_iou_agrees_with_counting_pixels() -> None:
    rng = random.Random(2)
    for _ in range(50):
        masks, boxes = [], []
        for _ in range(2):
            (x1, x2), (y1, y2) = (sorted(rng.sample(range(20), 2)) for _ in range(2))
            mask = np.zeros((20, 20), bool)
            mask[y1:y2, x1:x2] = True
            masks.append(mask), boxes.append(Box(x1, y1, x2, y2))
        assert iou(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_draw_boxes_colours_the_edge_and_nothing_else() -> None:
    grey = np.full((100, 200, 3), 128, np.uint8)
    drawn = draw_boxes(grey, [(Box(10, 20, 50, 80), "", RED), (Box(60, 0, 100, 100), "", BLUE)])
    assert drawn.shape == grey.shape and (grey == 128).all()
    for x, y in ((20, 20), (100, 80), (20, 50), (60, 20)):
        assert tuple(drawn[y, x]) == RED
    for x, y in ((120, 0), (199, 99), (199, 50)):
        assert tuple(drawn[y, x]) == BLUE
    assert (drawn != 128).any(axis=2).sum() == 2 * (81 + 61) - 4 + 2 * (80 + 100) - 4
    assert tuple(drawn[50, 60]) == (128, 128, 128)


def test_draw_boxes_writes_labels_on_their_colour() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    for box in (Box(10, 50, 60, 90), Box(0, 0, 50, 50)):  # with and without room above
        drawn = draw_boxes(grey, [(box, "a dog", BLUE)])
        blue = (drawn == BLUE).all(axis=2).sum()
        assert blue > (draw_boxes(grey, [(box, "", BLUE)]) == BLUE).all(axis=2).sum() + 100
        assert (drawn > 200).all(axis=2).any()  # light on a dark colour
    assert (draw_boxes(grey, [(Box(10, 50, 60, 90), "a dog", (255, 255, 0))]) < 50).all(axis=2).any()


def test_draw_boxes_keeps_labels_inside() -> None:
    """As much of a label is there at the right edge as in the middle."""
    grey = np.full((200, 300, 3), 128, np.uint8)
    labelled = [
        (draw_boxes(grey, [(box, "a purple cat", BLUE)]) != 128).any(axis=2)
        for box in (Box(20, 50, 30, 90), Box(90, 50, 100, 90))
    ]
    widths = [np.flatnonzero(drawn[95]).size for drawn in labelled]
    assert widths[0] == widths[1] > 40


def test_draw_boxes_takes_any_text_and_any_box() -> None:
    for size in ((1, 1), (3, 500), (448, 448)):
        pixels = np.zeros((*size, 3), np.uint8)
        for box in (Box(0, 0, 0, 0), Box(100, 100, 100, 100), Box(0, 100, 100, 100)):
            assert draw_boxes(pixels, [(box, "x\n" * 5000 + "🐕 كلب 狗", RED)]).shape == pixels.shape

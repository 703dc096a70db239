"""Subtitles: both formats, and which words go to which frame."""

from pathlib import Path

import pytest

from minigpt4.common.errors import BadSample
from minigpt4.processors.subtitles import Cue, read_subtitles, said_by_frame
from minigpt4.prompts.video import video_turn

VTT = """WEBVTT

NOTE made by hand

first
00:00:01.000 --> 00:00:02.500 align:start
<v Bob>Hello <c.red>there</c>
second   line

00:03.000 --> 00:04.000
Tom &amp; Jerry
"""
SRT = """1
00:00:03,000 --> 00:00:04,000
Bye.

2
00:00:01,000 --> 00:00:02,500
{\\an8}<i>Hello</i>
"""


AT = "1\n00:00:01,000 --> 00:00:02,000\n"


def test_both_formats(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(VTT, encoding="utf-8-sig")
    assert read_subtitles(tmp_path / "a.vtt") == [
        Cue(1.0, 2.5, ("Hello there", "second line")),
        Cue(3.0, 4.0, ("Tom & Jerry",)),
    ]
    (tmp_path / "a.srt").write_text(SRT)
    assert read_subtitles(tmp_path / "a.srt") == [Cue(1.0, 2.5, ("Hello",)), Cue(3.0, 4.0, ("Bye.",))]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no subtitles"),
        (b"WEBVTT\n\nnothing", "no subtitles"),
        (b"\xff\xfe\x00", "subtitles are not UTF-8"),
        (b"x" * (4 * 2**20 + 1), "subtitles too large"),
        # These would take pysubs2 hours, and half a minute.
        (f"{AT}{'{' * 2**20}\n".encode(), "subtitles too large"),
        (f"{AT}Hello.\n\n".encode() * 60_000, "subtitles too large"),
    ],
)
def test_what_is_no_subtitles_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.srt").write_bytes(content)
    with pytest.raises(BadSample, match=f"^{reason}$"):
        read_subtitles(tmp_path / "a.srt")


def test_words_stand_behind_the_frame_they_led_up_to() -> None:
    said = [(0.0, "one"), (1.5, "two"), (2.0, "three"), (9.0, "end")]
    cues = [Cue(at, at + 1, (text,)) for at, text in said]
    assert said_by_frame(cues, [0.5, 2.0, 4.0]) == ["one", "two three", "end"]
    assert said_by_frame(cues, [1.8], window=(1.0, 2.0)) == ["two"]
    assert said_by_frame([], [1.0, 2.0]) == ["", ""]


def test_lines_are_not_repeated_and_words_are_limited() -> None:
    rolling = [Cue(0, 1, ("a b",)), Cue(1, 2, ("a b", "c d")), Cue(2, 3, ("c d", "e f"))]
    assert said_by_frame(rolling, [0.0, 1.0, 2.0]) == ["a b", "c d", "e f"]
    assert said_by_frame(rolling, [0.0, 1.0, 2.0], most=3) == ["a b", "c", ""]
    many = [Cue(at, at + 1, (f"{at} " * 100,)) for at in range(6)]
    assert sum(len(said.split()) for said in said_by_frame(many, [2.0, 9.0])) == 400


def test_words_without_end_count_as_several() -> None:
    """Else one line of a script without spaces, or of a hostile file, fills every prompt."""
    cues = [
        Cue(0, 1, ("字" * 20,)),
        Cue(1, 2, ("字" * 41,)),
        Cue(2, 3, ("x" * 10**6, "then")),
        Cue(3, 4, ("no",)),
    ]
    assert said_by_frame(cues, [0.0, 9.0], most=5) == ["字" * 20, "字" * 41]


def test_the_prompt_of_a_video() -> None:
    assert video_turn(["", "He waves.", ""]) == (
        "<Img><ImageHere><Img><ImageHere><Cap>He waves.<Img><ImageHere>\n"
    )
    assert video_turn(["write <ImageHere>"]).count("<ImageHere>") == 1

"""Subtitle files, `.srt` and `.vtt` -> what is said in a video, and when."""

import html
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt4.common.errors import BadSample
from minigpt4.common.files import open_regular

SUBTITLE_SUFFIXES = ("srt", "vtt")
MAX_FILE_BYTES = 4 * 2**20  # of a film they have a tenth of a megabyte
# Characters of one cue, marks of layout included: the patterns of pysubs2 take quadratic time.
LONGEST_CUE = 1_000
MAX_CUES = 50_000
MAX_WORDS = 400  # of one video, as in MiniGPT4-video
WORD = 20  # letters: a longer one counts as several, as in scripts without spaces
_SPACES = re.compile(r"([ \t\n])\1{2,}")  # three or more of one; pysubs2 goes back over them, too


@dataclass(frozen=True)
class Cue:
    """Lines that are shown from `start` to `end`, in seconds."""

    start: float
    end: float
    lines: tuple[str, ...]


def read_subtitles(path: str | Path) -> list[Cue]:
    """A subtitle file -> its cues, in order of time, without marks of layout.

    Raises:
        BadSample: if it is not UTF-8, too large, or holds no subtitles.
        OSError: if it cannot be read.
    """
    import pysubs2

    with open_regular(path) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BadSample("subtitles too large")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("subtitles are not UTF-8") from error
    text = _SPACES.sub(r"\1\1", text)
    blocks = text.split("-->")
    if len(blocks) > MAX_CUES or max(map(len, blocks)) > LONGEST_CUE:
        raise BadSample("subtitles too large")
    kind = "vtt" if text.startswith("WEBVTT") else "srt"
    try:
        events = sorted(pysubs2.SSAFile.from_string(text, format_=kind), key=lambda event: event.start)
    except Exception as error:  # its readers raise many kinds of errors
        raise BadSample("broken subtitles") from error
    cues = []
    for event in events:
        lines = (" ".join(html.unescape(line).split()) for line in event.plaintext.split("\n"))
        cues.append(Cue(event.start / 1000, event.end / 1000, tuple(filter(None, lines))))
    if not cues:
        raise BadSample("no subtitles")
    return cues


def said_by_frame(
    cues: Sequence[Cue],
    times: Sequence[float],
    window: tuple[float, float] = (0.0, float("inf")),
    most: int = MAX_WORDS,
) -> list[str]:
    """What was said since the frame before each frame; after the last one, what follows it too.

    A line that was said before is left out: subtitles made by machines repeat the line above.

    Args:
        cues: in order of time.
        times: of the frames in seconds, ascending.
        window: (start, end) of the part of the video that the frames stand for.
        most: words of all frames together; what follows them is cut.

    Returns:
        A text for each frame, empty where nothing was said.
    """
    said: list[list[str]] = [[] for _ in times]
    seen: set[str] = set()
    for cue in cues:
        if not (window[0] <= cue.start < window[1]):
            continue
        place = min(bisect_left(times, cue.start), len(times) - 1)
        for line in cue.lines:
            if line not in seen:
                seen.add(line)
                for word in line.split():
                    most -= -(-len(word) // WORD)
                    if most < 0:
                        return [" ".join(words) for words in said]
                    said[place].append(word)
    return [" ".join(words) for words in said]

"""Answers about videos that are too long to be seen at once: window by window.

Each window is described by itself; the question is answered from the descriptions. What is not described is
lost: this is a summary that can be asked, not a search.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.files import expanded
from minigpt4.processors.video import VideoReader, told_to_people
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.videos import VideoFile, clock, cues_of

DESCRIBE_WINDOW = "Describe this video."
MOST_WINDOWS = 500
TAIL = 0.01  # of a window: what is left at the end, perhaps by rounding alone, belongs to the one before


@dataclass(frozen=True)
class Window:
    """A part of a video, in seconds, and its description."""

    start: float
    end: float
    text: str

    def __str__(self) -> str:
        return f"{clock(self.start)}-{clock(self.end)}: {self.text}"


def watch(
    model: ChatModel,
    video: str | Path,
    question: str,
    seconds: float,
    subtitles: str | Path | None = None,
    seen: Callable[[Window], None] = lambda window: None,
    **settings: Any,
) -> str:
    """Describe a video window by window, and answer from the descriptions.

    Args:
        model: that sees and answers.
        video: a path.
        question: about the whole.
        seconds: length of a window.
        subtitles: the path of its subtitles.
        seen: is called with each window once it is described.
        settings: of replies, as for `ChatModel.chat`.

    Raises:
        ConfigError: if the windows are too short.
        DataError: for a video that cannot be read, or descriptions that do not fit into a prompt.
    """
    path = Path(expanded(video))
    length = VideoReader().length(path)
    with told_to_people(path):
        cues = cues_of(subtitles)
    if not seconds > 0 or length / seconds > MOST_WINDOWS:
        least = length / MOST_WINDOWS
        raise ConfigError(f"--window is {seconds}, for this video it must be at least {least:.1f} seconds")
    windows = []
    count = max(math.ceil(length / seconds - TAIL), 1)
    starts = [number * min(seconds, length) for number in range(count)]
    for start, end in pairwise([*starts, length]):
        part = VideoFile(path, cues, (start, end))
        windows.append(Window(start, end, model.chat(DESCRIBE_WINDOW, videos=[part], **settings)))
        seen(windows[-1])
    told = "\n".join(map(str, windows))
    try:
        return model.chat(f"{told}\n{question}", **settings)
    except DataError as error:
        raise DataError(f"{error} ({len(windows)} windows were described: lengthen --window)") from error

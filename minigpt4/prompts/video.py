"""A video in a prompt: its frames, and what is said in it. The only place that writes this text."""

import re
from collections.abc import Sequence

from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, without_places

FRAME = f"<Img>{IMAGE_PLACEHOLDER}"
SAID = "<Cap>"
VIDEO_MARK = "<video>"  # where a video goes in a text of a user's data
_VIDEO_TURN = re.compile(rf"^{re.escape(FRAME)}(?!</Img>)[^\n]*\n")


def video_turn(said: Sequence[str]) -> str:
    """The frames of a video, before what is asked about it: `<Img><ImageHere><Cap>words<Img><ImageHere>...`.

    As MiniGPT4-video was trained: each frame is followed by what was said since the one before.

    Args:
        said: for each frame, empty where nothing was said.
    """
    return "".join(FRAME + (SAID + without_places(words) if words else "") for words in said) + "\n"


def about_video(said: Sequence[str], question: str) -> str:
    """A question with the frames of a video where it marks them (`<video>`), or before it."""
    frames = video_turn(said)
    if VIDEO_MARK in question:
        return question.replace(VIDEO_MARK, frames.rstrip("\n"), 1)
    return frames + question


def without_video(text: str) -> str:
    """What is asked, without the frames before it."""
    return _VIDEO_TURN.sub("", text)

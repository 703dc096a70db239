"""A video in a prompt: its frames, and what is said in it. The only place that writes this text."""

from collections.abc import Sequence

from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, without_places

FRAME = f"<Img>{IMAGE_PLACEHOLDER}"
SAID = "<Cap>"


def video_turn(said: Sequence[str]) -> str:
    """The frames of a video, before what is asked about it: `<Img><ImageHere><Cap>words<Img><ImageHere>...`.

    As MiniGPT4-video was trained: each frame is followed by what was said since the one before.

    Args:
        said: for each frame, empty where nothing was said.
    """
    return "".join(FRAME + (SAID + without_places(words) if words else "") for words in said) + "\n"

"""Videos on the page: how they are read, and the frames that the model saw, with their times."""

import base64
import html
import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from minigpt4.common.errors import DataError
from minigpt4.serving.openai.limits import ServerSettings
from minigpt4.serving.videos import SeenVideo, VideoFile, clock

if TYPE_CHECKING:
    from minigpt4.serving import ChatModel

log = logging.getLogger(__name__)

# Of a small picture of a frame.
HEIGHT, QUALITY = 96, 80


class Unreadable(Exception):
    """A file that is no video, or one beyond a limit; the message is its name."""


def see(path: str, model: "ChatModel") -> tuple[SeenVideo, str]:
    """Read an uploaded video.

    Returns:
        What the model is shown, and `film` of it.

    Raises:
        Unreadable: for a broken or too large one.
    """
    small: list[bytes] = []
    file = VideoFile(path, pixels=ServerSettings.video_pixels)
    try:
        seen = SeenVideo.of(file, model.video, model.processor, lambda pixels: small.append(_small(pixels)))
    except DataError as error:
        log.info("%s", error)
        raise Unreadable(Path(path).name) from error
    return seen, film(path, list(zip(seen.times, small, strict=True)))


def film(path: str, frames: Sequence[tuple[float, bytes]] = ()) -> str:
    """The name of a video above a row of frames, pairs of seconds and JPEG, as HTML."""
    close = any(after - before < 1 for (before, _), (after, _) in pairwise(frames))
    row = ""
    for time, jpeg in frames:
        told = clock(time) + f".{int(10 * time) % 10}" * close
        picture = f'<img alt="{told}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        row += f'<span class="frame">{picture}<span>{told}</span></span>'
    name = f'<span class="name">{html.escape(Path(path).name)}</span>'
    return f'<span class="film">{name}<span class="frames">{row}</span></span>'


def _small(pixels: np.ndarray) -> bytes:
    """Pixels [H, W, 3] -> a JPEG of HEIGHT pixels."""
    high, wide = pixels.shape[:2]
    size = min(max(round(wide * HEIGHT / high), 1), 4 * HEIGHT), HEIGHT
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", resized[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()

"""Videos whose frames say which they are: frame n is flat grey of value n."""

from pathlib import Path

import cv2
import numpy as np

CODECS = {".mp4": "mp4v", ".avi": "MJPG", ".webm": "VP80", ".mkv": "FFV1"}


def write_video(path: Path, frames: int, fps: float = 10, size: tuple[int, int] = (32, 24)) -> Path:
    """A video of so many frames, of (width, height) pixels."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), fps, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), number, np.uint8))
    writer.release()
    return path


def number_of(pixels: np.ndarray) -> int:
    """Which frame it is."""
    return round(float(pixels.mean()))

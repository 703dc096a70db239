"""Videos whose frames say which they are: frame n is flat grey of value n."""

import struct
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


def write_growing_video(path: Path, small: int, large: int, size: tuple[int, int]) -> Path:
    """An AVI whose header tells of 32x24 pixels, as its first frames have, but not its last."""

    def jpeg(width: int, height: int) -> bytes:
        return cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8))[1].tobytes()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    count = small + large
    main = struct.pack("<14I", 100_000, 0, 0, 16, count, 0, 1, 0, 32, 24, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<IHHIIIIIIII4h", 0, 0, 0, 0, 1, 10, 0, count, 0, 0, 0, 0, 0, 32, 24)
    shape = struct.pack("<IiiHH4sIiiII", 40, 32, 24, 1, 24, b"MJPG", 32 * 24 * 3, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", shape))
    head = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    frames = chunk(b"00dc", jpeg(32, 24)) * small + chunk(b"00dc", jpeg(*size)) * large
    path.write_bytes(chunk(b"RIFF", b"AVI " + head + chunk(b"LIST", b"movi" + frames)))
    return path


def number_of(pixels: np.ndarray) -> int:
    """Which frame it is."""
    return round(float(pixels.mean()))

"""Which files FFmpeg may open: single videos on disk, of known containers."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minigpt4.common.errors import BadSample
from minigpt4.common.files import open_regular

# FFmpeg's readers of single files. Its readers of playlists would open whatever these name.
FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,gif"
# How the files begin: (offset, bytes).
BEGINNINGS = (
    *((4, kind) for kind in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),  # MP4, QuickTime
    (0, b"\x1aE\xdf\xa3"),  # Matroska, WebM
    (8, b"AVI "),
    (0, b"\x00\x00\x01\xba"),  # MPEG program stream
    (188, b"G"),  # MPEG transport stream: packets of 188 bytes, each beginning so
    (0, b"FLV\x01"),
    (0, b"0&\xb2u"),  # ASF, WMV
    (0, b"OggS"),
    (0, b"GIF8"),
)
MAX_FILE_BYTES = 4 * 2**30

# OpenCV reads what FFmpeg may do from the environment, each time that it opens a file.
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_ONLY_FILES = f"format_whitelist;{FORMATS}|protocol_whitelist;file"
_CHANGING = threading.Lock()


def check_file(path: str | Path) -> None:
    """Raise BadSample or OSError for what FFmpeg should not see."""
    with open_regular(path) as file:
        head, size = file.read(256), os.fstat(file.fileno()).st_size
    if not head:
        raise BadSample("empty video")
    if size > MAX_FILE_BYTES:
        raise BadSample("video too large")
    if not any(head.startswith(kind, at) for at, kind in BEGINNINGS):
        raise BadSample("not a video of a known kind")


@contextmanager
def only_files() -> Iterator[None]:
    """What OpenCV opens in this block is of FORMATS. Others' captures are left alone: cameras, streams."""
    with _CHANGING:
        before = os.environ.get(_OPTIONS)
        os.environ[_OPTIONS] = _ONLY_FILES
        try:
            yield
        finally:
            del os.environ[_OPTIONS]
            if before is not None:
                os.environ[_OPTIONS] = before

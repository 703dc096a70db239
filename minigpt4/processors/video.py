"""Video files of any common kind -> frames in RGB, with their times.

A video that is too long or too large is refused by what its header says, before a frame is decoded.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from minigpt4.common.errors import BadSample, DataError
from minigpt4.common.schema import key
from minigpt4.processors.containers import check_file, only_files
from minigpt4.processors.subtitles import MAX_WORDS, Cue, read_subtitles, said_by_frame

VIDEO_SUFFIXES = ("mp4", "webm", "mkv", "mov", "avi", "m4v", "mpg", "mpeg", "ts", "flv", "wmv", "ogv", "gif")
MAX_FRAME_PIXELS = 40_000_000  # 8K has 33 million
MAX_SECONDS = 6 * 60 * 60
MAX_FRAMES = 2_000_000
# To a frame that is further away than this, seeking is faster than passing over those between.
SEEK_FROM = 48
DEFAULT_FPS = 25.0  # where the file does not say
# Frames may be larger than the header says, which OpenCV does not tell: a stranger's video is also limited in
# time. One core decodes at least so many pixels a second.
PIXELS_A_SECOND, LEAST_SECONDS = 50_000_000, 1.0

T = TypeVar("T")

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what is wrong with a file is our message to write


@dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself.

    Attributes:
        frames: how many; as the container says, which may be a few too many.
        fps: frames per second.
        width, height: in pixels, as shown (after `rotation`).
        rotation: degrees that its frames are turned by when they are read; 0, 90, 180, 270.
    """

    frames: int
    fps: float
    width: int
    height: int
    rotation: int

    @property
    def seconds(self) -> float:
        return self.frames / self.fps


@dataclass(frozen=True)
class Frame(Generic[T]):
    """A frame.

    Attributes:
        time: in seconds from the beginning of the video.
        image: what its pixels [H, W, 3], uint8 RGB, upright, were made into.
    """

    time: float
    image: T


def uniform(total: int, count: int) -> list[int]:
    """The middle frame of each of `count` equal parts; all frames of a video that has no more than that."""
    if total <= count:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def minigpt4_video(total: int, count: int) -> list[int]:
    """As MiniGPT4-video: every `int(total / count)`-th frame, at most `count`; the last is repeated if fewer.

    Of a video of 89 frames and 45 that are wanted, it sees the first half only.
    """
    places = list(range(0, total, max(total // count, 1)))[:count]
    return places + places[-1:] * (count - len(places))


SAMPLINGS: dict[str, Callable[[int, int], list[int]]] = {"uniform": uniform, "minigpt4_video": minigpt4_video}


def video_info(path: str | Path) -> VideoInfo:
    """What a video says about itself. Raises BadSample and OSError as `read_frames`."""
    with _opened(path) as (_, info):
        return info


def read_frames(
    path: str | Path,
    prepare: Callable[[np.ndarray], T],
    count: int,
    sampling: str = "uniform",
    window: tuple[float, float] | None = None,
    pixels: int | None = None,
) -> list[Frame[T]]:
    """Frames of a video, in order; those between are passed over.

    Args:
        path: of the file.
        prepare: pixels [H, W, 3], uint8 RGB -> what is kept of a frame.
        count: how many frames at most.
        sampling: which, a key of SAMPLINGS.
        window: (start, end) in seconds of the part to look at; None for the whole.
        pixels: of a stranger's video, at most: of all frames together by its header, and by the time that
            they take, as each is decoded.

    Raises:
        BadSample: if it is not a video of a known container and codec, is broken, empty, or beyond a limit.
        OSError: if it cannot be read.
    """
    with _opened(path, pixels) as (capture, info):
        for total in (info.frames, None):
            if total is None:  # the container promised more frames than there are
                capture.jump(0)
                total = _count(capture, info.frames)
                capture.jump(0)
            first, last = _part(info, total, window)
            places = [first + place for place in SAMPLINGS[sampling](last - first, count)]
            if not places:
                raise BadSample("video without frames")
            images = [prepare(cv2.cvtColor(one, cv2.COLOR_BGR2RGB)) for one in _read(capture, places)]
            if len(images) == len(places):
                return [Frame(place / info.fps, image) for place, image in zip(places, images, strict=True)]
    raise BadSample("broken video")


def _part(info: VideoInfo, total: int, window: tuple[float, float] | None) -> tuple[int, int]:
    """The first frame of a window and the one after its last; a window that begins in the video has one."""
    start, end = window or (0.0, info.seconds)
    if start >= info.seconds or not total:
        return 0, 0
    first = min(round(start * info.fps), total - 1)
    return first, max(min(round(min(end, info.seconds) * info.fps), total), first + 1)


class _Capture:
    """A video that may take so many seconds of this thread's processor time; decoding is done in it."""

    def __init__(self, path: str, seconds: float) -> None:
        # One thread: there are many reader processes already.
        self.video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        self._until = time.thread_time() + seconds
        self.may_jump = seconds == float("inf")  # what is decoded in a jump could not be stopped

    def grab(self) -> bool:
        """Go to the next frame, if there is one. Raises BadSample when the time is over."""
        if time.thread_time() > self._until:
            raise BadSample("video too long")
        return self.video.grab()

    def jump(self, place: int) -> bool:
        """Let the frame at a place be the next one."""
        return self.video.set(cv2.CAP_PROP_POS_FRAMES, place)


@contextmanager
def _opened(path: str | Path, pixels: int | None = None) -> Iterator[tuple["_Capture", VideoInfo]]:
    check_file(path)
    seconds = float("inf") if pixels is None else max(pixels / PIXELS_A_SECOND, LEAST_SECONDS)
    # An absolute path is never a pattern or a protocol.
    with only_files():
        capture = _Capture(os.path.abspath(path), seconds)
    try:
        if not capture.video.isOpened():
            raise BadSample("broken video, or one of an unknown codec")
        yield capture, _info(capture, pixels)
    except cv2.error as error:
        raise BadSample("broken video") from error
    finally:
        capture.video.release()


def _info(capture: _Capture, pixels: int | None) -> VideoInfo:
    fps = capture.video.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 10_000 else DEFAULT_FPS
    width, height = (
        int(capture.video.get(key)) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if width * height > MAX_FRAME_PIXELS:
        raise BadSample("video too large")
    frames = int(capture.video.get(cv2.CAP_PROP_FRAME_COUNT))
    most = MAX_FRAMES if pixels is None else min(MAX_FRAMES, pixels // max(width * height, 1))
    if frames <= 0:  # some containers do not say
        frames = _count(capture, most + 1)
        capture.jump(0)
    if frames > most or frames / fps > MAX_SECONDS:
        raise BadSample("video too long")
    return VideoInfo(frames, fps, width, height, int(capture.video.get(cv2.CAP_PROP_ORIENTATION_META)) % 360)


def _count(capture: _Capture, most: int) -> int:
    """How many frames follow, at most so many."""
    frames = 0
    while frames < most and capture.grab():
        frames += 1
    return frames


def _read(capture: _Capture, places: Sequence[int]) -> Iterator[np.ndarray]:
    """The frames at ascending places, BGR, from the beginning on; it ends before one that is not there."""
    at, frame = -1, None  # the place of the frame that was grabbed last
    for place in places:
        if capture.may_jump and place - at > SEEK_FROM and capture.jump(place):
            at = place - 1
        while at < place:
            if not capture.grab():
                return
            at, frame = at + 1, None
        if frame is None:
            found, frame = capture.video.retrieve()
            if not found:
                return
        yield frame


@dataclass(frozen=True)
class Video(Generic[T]):
    """What is seen and said in a video.

    Attributes:
        frames: n, in order.
        said: n texts: what was said since the frame before, perhaps nothing.
    """

    frames: list[Frame[T]]
    said: list[str]

    @property
    def images(self) -> list[T]:
        return [frame.image for frame in self.frames]


@dataclass(frozen=True, kw_only=True)
class VideoReader:
    """How videos are read; the fields are the keys of `datasets.NAME.video`."""

    frames: int = key(8, "frames that are looked at", low=1, high=1000)
    sampling: str = key(
        "uniform",
        "which frames: the middle ones of as many equal parts; `minigpt4_video`: as MiniGPT4-video, which "
        "may see the first half only",
        choices=tuple(SAMPLINGS),
    )
    subtitle_words: int = key(MAX_WORDS, "words of the subtitles that are kept", low=0)

    def read(
        self,
        path: str | Path,
        prepare: Callable[[np.ndarray], T],
        subtitles: str | Path | Sequence[Cue] | None = None,
        window: tuple[float, float] | None = None,
        pixels: int | None = None,
    ) -> Video[T]:
        """A video with its subtitles.

        Args:
            path, prepare, window, pixels: as for `read_frames`.
            subtitles: a file of them, or what was read of one.

        Raises:
            BadSample: as `read_frames` and `read_subtitles`.
            OSError: if a file cannot be read.
        """
        cues = read_subtitles(subtitles) if isinstance(subtitles, str | Path) else subtitles
        frames = read_frames(path, prepare, self.frames, self.sampling, window, pixels)
        return self.with_words(frames, cues, window)

    def with_words(
        self, frames: list[Frame[T]], cues: Sequence[Cue] | None, window: tuple[float, float] | None = None
    ) -> Video[T]:
        """Frames with what was said up to each, see `said_by_frame`."""
        times = [frame.time for frame in frames]
        window = window or (0.0, float("inf"))
        return Video(frames, said_by_frame(cues or (), times, window, self.subtitle_words))

    @property
    def which(self) -> dict[str, Any]:
        """What decides which frames are read."""
        return {"frames": self.frames, "sampling": self.sampling}

    def length(self, path: str | Path) -> float:
        """Seconds that a video lasts. Raises DataError."""
        with told_to_people(path):
            return video_info(path).seconds


@contextmanager
def told_to_people(path: str | Path) -> Iterator[None]:
    """Raise DataError where a video that a person named cannot be read."""
    try:
        yield
    except BadSample as bad:
        raise DataError(f"The video {Path(path).name} cannot be read: {bad}.") from bad
    except OSError as error:
        raise DataError(f"{error.filename or path} cannot be read: {error.strerror}.") from error

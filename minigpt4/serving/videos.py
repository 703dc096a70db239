"""Videos in all accepted forms, as the pictures and words of a message."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from minigpt4.common.errors import DataError
from minigpt4.common.files import expanded
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.processors.pictures import IMAGE_SUFFIXES
from minigpt4.processors.subtitles import SUBTITLE_SUFFIXES, Cue, read_subtitles
from minigpt4.processors.video import VIDEO_SUFFIXES, VideoReader, told_to_people
from minigpt4.serving.pictures import Picture

# What is taken as a video among other files; a GIF is a picture there.
SUFFIXES = tuple(suffix for suffix in VIDEO_SUFFIXES if suffix not in IMAGE_SUFFIXES)


@dataclass(frozen=True)
class VideoFile:
    """A video to look at.

    Attributes:
        video: a path, or the bytes of a file.
        subtitles: the path of its subtitles, `.srt` or `.vtt`; or what `cues_of` read of it.
        window: (start, end) in seconds of the part to look at; None for the whole.
        pixels: of all frames of a stranger's video together, at most.

    Raises:
        DataError: for a window without a length, and other types.
    """

    video: str | Path | bytes
    subtitles: str | Path | Sequence[Cue] | None = None
    window: tuple[float, float] | None = None
    pixels: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.video, str | Path | bytes):
            found = type(self.video).__name__
            raise DataError(f"a video is a {found}, it must be a path, a file's bytes, or a VideoFile")
        if self.window is not None and not 0 <= self.window[0] < self.window[1]:
            raise DataError(f"the window {self.window} must be (start, end) in seconds, 0 <= start < end")


@dataclass(frozen=True, eq=False)
class SeenVideo:
    """What the model sees of a video.

    Attributes:
        pictures: the frames, in order.
        times: of each, in seconds.
        said: what was said since the frame before each.
    """

    pictures: tuple[Picture, ...]
    times: tuple[float, ...]
    said: tuple[str, ...]

    @classmethod
    def of(
        cls,
        video: "str | Path | bytes | VideoFile | SeenVideo",
        reader: VideoReader,
        processor: ImageProcessor,
        shown: Callable[[np.ndarray], object] = lambda pixels: None,
    ) -> "SeenVideo":
        """Read a video.

        Args:
            video: a path, the bytes of a file, either with subtitles, or one that was read.
            reader: says which frames.
            processor: the model's.
            shown: is called with the pixels [H, W, 3] of each frame, uint8 RGB, as the file has them.

        Raises:
            DataError: for a file that does not exist or cannot be read.
        """
        if isinstance(video, SeenVideo):
            return video
        file = video if isinstance(video, VideoFile) else VideoFile(video)
        if isinstance(file.video, bytes):  # FFmpeg reads files
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "video"
                path.write_bytes(file.video)
                return cls.of(replace(file, video=path), reader, processor, shown)
        path = Path(expanded(file.video))

        def prepare(pixels: np.ndarray) -> torch.Tensor:
            shown(pixels)
            return processor.to_batch(pixels)

        with told_to_people(path):
            cues = cues_of(file.subtitles)
            seen = reader.read(path, prepare, cues, file.window, file.pixels)
        return cls(
            tuple(Picture.of(image, processor) for image in seen.images),
            tuple(frame.time for frame in seen.frames),
            tuple(seen.said),
        )


def cues_of(subtitles: str | Path | Sequence[Cue] | None) -> Sequence[Cue]:
    """What subtitles say. Raises DataError for other files, BadSample or OSError for broken ones."""
    if not isinstance(subtitles, str | Path):
        return subtitles or ()
    path = Path(expanded(subtitles))
    if path.suffix[1:].lower() not in SUBTITLE_SUFFIXES:
        raise DataError(f"The subtitles {path.name} must be a file .srt or .vtt.")
    return read_subtitles(path)


def is_video(path: str | Path) -> bool:
    """Whether a file is named like a video."""
    return Path(path).suffix[1:].lower() in SUFFIXES


# The accepted forms of a video.
VideoLike = str | Path | bytes | VideoFile | SeenVideo


def listed_videos(videos: VideoLike | Sequence[VideoLike]) -> Sequence[VideoLike]:
    """One video as a list of one."""
    return [videos] if isinstance(videos, str | Path | bytes | VideoFile | SeenVideo) else videos


def clock(seconds: float) -> str:
    """A time as people write it: `1:02:03`, `0:07`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

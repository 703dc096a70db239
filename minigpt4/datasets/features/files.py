"""Features of single pictures and videos, in files of their own: for data sets that read them from a folder.

A file holds `image_features` [n, P, width] in bfloat16, of n frames of a video or of one picture, and the
`times` of the frames in seconds or the `size` of the picture. P is tokens per image.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from minigpt4.common.errors import BadSample
from minigpt4.common.files import open_regular
from minigpt4.datasets.features.reader import DTYPE, NAME
from minigpt4.processors.video import Frame, VideoReader

MAX_VALUES = 2**22  # of one image, where its shape is not known: 1,024 tokens of width 4,096
MAX_BESIDE = 2**16  # bytes, of the header and of what stands beside the features

Look = tuple[
    torch.Tensor, tuple[int, int]
]  # pixels [3, H, W] or features [P, width]; original height and width


class FeatureFiles:
    """The files of one split of a data set.

    Args:
        folder: where they are.
        shape: P and width; None: any.
        video: how its videos are read.
    """

    def __init__(self, folder: Path, shape: tuple[int, int] | None, video: VideoReader) -> None:
        self.folder, self.shape, self.video = folder, shape, video

    def path(self, name: str, *, video: bool) -> Path:
        """The file of a picture or a video of that name below the data set's folder."""
        made = f"{name}\n{self.video.frames}\n{self.video.sampling}" if video else name
        digest = hashlib.sha256(made.encode()).hexdigest()[:32]
        return self.folder / digest[:2] / f"{digest}.safetensors"

    def picture(self, name: str, look: Callable[[str], Look]) -> Look:
        """What is kept of a picture, which is not looked at again. Raises BadSample without it."""
        features, size = self._read(self.path(name, video=False), 1, "size", 2)
        if len(features) != 1:
            raise BadSample("features of another shape")
        return features[0], (int(size[0]), int(size[1]))

    def frames(
        self, name: str, look: Callable[[str], list[Frame[torch.Tensor]]]
    ) -> list[Frame[torch.Tensor]]:
        """What is kept of the frames of a video, likewise."""
        features, times = self._read(self.path(name, video=True), self.video.frames, "times", None)
        return [Frame(float(time), one) for time, one in zip(times, features, strict=True)]

    def _read(
        self, path: Path, images: int, beside: str, length: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        values = MAX_VALUES if self.shape is None else self.shape[0] * self.shape[1]
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size > images * values * DTYPE.itemsize + MAX_BESIDE:
                    raise BadSample("features too large")
                tensors = load(file.read())
            features, other = tensors[NAME], tensors[beside]
        except OSError as error:
            raise BadSample("no features") from error
        except (SafetensorError, KeyError, ValueError) as error:
            raise BadSample("broken features") from error
        right = features.ndim == 3 and self.shape in (None, tuple(features.shape[1:]))
        if (
            not right
            or features.dtype != DTYPE
            or tuple(other.shape) != (len(features) if length is None else length,)
        ):
            raise BadSample("features of another shape")
        return features, other


def pack_file(features: torch.Tensor, beside: dict[str, torch.Tensor]) -> bytes:
    """Features [n, P, width], with `times` [n] or `size` [2] -> the bytes of a file."""
    return save({NAME: features.to(DTYPE).contiguous(), **beside})

"""BLIP-2's processors, as MiniGPT-4 uses them: a plain square resize, and lower-cased captions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
from PIL import Image

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import key
from minigpt4.processors.base_processor import BaseProcessor
from minigpt4.processors.pictures import on_white

if TYPE_CHECKING:
    import torch

# The per-channel statistics that CLIP (and so EVA-CLIP) was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# torch is imported where it is used: a config is checked against these classes before anything heavy loads.
def normalize(
    pixels: "torch.Tensor", mean: "Sequence[float] | torch.Tensor", std: "Sequence[float] | torch.Tensor"
) -> "torch.Tensor":
    """uint8 [..., 3, H, W] -> float32 of the same shape, zero mean and unit variance per channel."""
    import torch

    mean, std = (torch.as_tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return (pixels.float().div(255) - mean) / std


@dataclass(frozen=True)
class BlipImageBaseProcessor(BaseProcessor):
    """Square bicubic resize and normalisation. No crop and no flip, not even in training (as MiniGPT-4).

    Called directly, it returns the original's normalised float32 tensor [3, H, W], resized by PIL. Data
    sets and chat call `to_batch` instead. It returns uint8, a quarter of the bytes, which the model
    normalises on its device with its encoder's own statistics. It is resized by torch, whose bicubic filter
    is the same with 16-bit weights: five times as fast, and at most 2 of 255 away from PIL's. A mean or std
    given in the YAML is honoured by normalising here.

    Args:
        image_size: side of the square, in pixels.
        mean, std: per channel, for values in 0..1; CLIP's where not given.

    Raises:
        ConfigError: for statistics that are not three numbers.
    """

    image_size: int = key(224, "side of the square that an image is resized to, in pixels", low=1)
    mean: list[float] | None = key(None, "per channel, for values in 0..1; the encoder's where not given")
    std: list[float] | None = key(None, "as `mean`")

    def __post_init__(self) -> None:
        for name, value in {"mean": self.mean, "std": self.std}.items():
            if value is not None and len(value) != 3:
                raise ConfigError(f"an image processor's {name} is {value!r}, it must be three numbers")

    def _normalized(self, planes: "torch.Tensor") -> "torch.Tensor":
        return normalize(planes, self.mean or CLIP_MEAN, self.std or CLIP_STD)

    def __call__(self, image: np.ndarray | Image.Image) -> "torch.Tensor":
        """What `to_batch` takes -> float32 [3, H, W], equal to the original's bit for bit."""
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else on_white(image)
        resized = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return self._normalized(_channels_first(np.asarray(resized)))

    def to_batch(self, image: np.ndarray | Image.Image) -> "torch.Tensor":
        """What a batch carries: uint8 [3, H, W], or the normalised floats where the YAML set mean or std.

        Args:
            image: pixels [H, W, 3] as `decode_picture` gives them, or a PIL image of any mode.
        """
        import torch
        import torch.nn.functional as F

        pixels = image if isinstance(image, np.ndarray) else np.array(on_white(image))
        size = (self.image_size, self.image_size)
        if pixels.shape[:2] != size:
            # [1, 3, H, W], channels last in memory: that is what torch is fast at.
            planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            resized = F.interpolate(planes, size, mode="bicubic", antialias=True)
            pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
        planes = _channels_first(pixels)
        return planes if self.mean is None and self.std is None else self._normalized(planes)


def _channels_first(pixels: np.ndarray) -> "torch.Tensor":
    """uint8 [H, W, 3] -> contiguous [3, H, W]; OpenCV does it four times as fast as torch."""
    import torch

    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))  # type: ignore[call-overload]
    return torch.from_numpy(planes)


@registry.register_processor("blip2_image_train")
@dataclass(frozen=True)
class Blip2ImageTrainProcessor(BlipImageBaseProcessor):
    """As BlipImageBaseProcessor. `min_scale` and `max_scale` are the original's keys, unused there too."""

    min_scale: float = key(0.5, "the original's key, unused there too")
    max_scale: float = key(1.0, "the original's key, unused there too")


@registry.register_processor("blip2_image_eval")
@dataclass(frozen=True)
class Blip2ImageEvalProcessor(BlipImageBaseProcessor):
    """As BlipImageBaseProcessor."""


@registry.register_processor("blip_caption")
@dataclass(frozen=True)
class BlipCaptionProcessor(BaseProcessor):
    """Lower-cased, BLIP's punctuation replaced by spaces, cut to `max_words` words, `prompt` put before."""

    PUNCTUATION: ClassVar[re.Pattern] = re.compile(r'[.!"()*#:;~]')

    prompt: str = key("", "what stands before every caption")
    max_words: int = key(50, "words of a caption that are kept", low=1)

    def __call__(self, caption: str) -> str:
        text = re.sub(r"\s{2,}", " ", self.PUNCTUATION.sub(" ", caption.lower()))
        words = text.rstrip("\n").strip(" ").split(" ")
        return self.prompt + " ".join(words[: self.max_words])

"""BLIP-2's processors, as MiniGPT-4 uses them: a plain square resize, and captions in small letters."""

import re
from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.processors.base_processor import BaseProcessor
from minigpt4.processors.pictures import on_white

# The colour statistics CLIP (and so EVA-CLIP) was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(
    pixels: torch.Tensor, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor
) -> torch.Tensor:
    """uint8 [..., 3, H, W] -> float32 of the same shape, zero mean and unit variance per channel."""
    mean, std = (torch.as_tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return (pixels.float().div(255) - mean) / std


class BlipImageBaseProcessor(BaseProcessor):
    """Square bicubic resize and normalisation. No crop and no flip, in training neither (as MiniGPT-4).

    Called directly it answers the original's normalised float32 tensor [3, H, W], resized by PIL. Datasets
    and chat ask `to_batch` instead: uint8, a quarter of the bytes, which the model normalises on its
    device with its encoder's own statistics, resized by torch, whose bicubic filter is the same with
    weights of 16 bits: five times as fast, and at most 2 of 255 beside PIL's. A mean or std given in the
    YAML is honoured by normalising here.

    Args:
        image_size: side of the square, in pixels.
        mean, std: per channel, for values in 0..1; CLIP's where not given.

    Raises:
        ConfigError: for a size below 1, or statistics that are not three numbers.
    """

    def __init__(
        self,
        image_size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        if not isinstance(image_size, int) or image_size < 1:
            raise ConfigError(f"an image processor's image_size is {image_size!r}, not a whole number from 1")
        for key, value in {"mean": mean, "std": std}.items():
            if value is not None and (not isinstance(value, Sequence) or len(value) != 3):
                raise ConfigError(f"an image processor's {key} is {value!r}, not three numbers")
        self.image_size = image_size
        self.own_statistics = mean is not None or std is not None
        self.mean = tuple(mean or CLIP_MEAN)
        self.std = tuple(std or CLIP_STD)

    def __call__(self, image: np.ndarray | Image.Image) -> torch.Tensor:
        """What `to_batch` takes -> float32 [3, H, W], as the original's to the bit."""
        image = Image.fromarray(image) if isinstance(image, np.ndarray) else on_white(image)
        resized = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return normalize(_channels_first(np.asarray(resized)), self.mean, self.std)

    def to_batch(self, image: np.ndarray | Image.Image) -> torch.Tensor:
        """What a batch carries: uint8 [3, H, W], or the normalised floats where the YAML set mean or std.

        Args:
            image: pixels [H, W, 3] as `decode_picture` gives them, or a PIL image of any mode.
        """
        pixels = image if isinstance(image, np.ndarray) else np.array(on_white(image))
        size = (self.image_size, self.image_size)
        if pixels.shape[:2] != size:
            # [1, 3, H, W], channels last in memory: that is what torch is fast at.
            planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            resized = F.interpolate(planes, size, mode="bicubic", antialias=True)
            pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
        planes = _channels_first(pixels)
        return normalize(planes, self.mean, self.std) if self.own_statistics else planes


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> contiguous [3, H, W]; OpenCV does it four times as fast as torch."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


@registry.register_processor("blip2_image_train")
class Blip2ImageTrainProcessor(BlipImageBaseProcessor):
    """As BlipImageBaseProcessor. `min_scale` and `max_scale` are the original's keys, unused there too."""

    def __init__(
        self,
        image_size: int = 224,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        min_scale: float = 0.5,
        max_scale: float = 1.0,
    ) -> None:
        super().__init__(image_size, mean, std)


@registry.register_processor("blip2_image_eval")
class Blip2ImageEvalProcessor(BlipImageBaseProcessor):
    """As BlipImageBaseProcessor."""


@registry.register_processor("blip_caption")
class BlipCaptionProcessor(BaseProcessor):
    """Small letters, BLIP's list of signs replaced by spaces, at most `max_words` words, after `prompt`."""

    SIGNS = re.compile(r'[.!"()*#:;~]')

    def __init__(self, prompt: str = "", max_words: int = 50) -> None:
        self.prompt = prompt
        self.max_words = max_words

    def __call__(self, caption: str) -> str:
        text = re.sub(r"\s{2,}", " ", self.SIGNS.sub(" ", caption.lower()))
        words = text.rstrip("\n").strip(" ").split(" ")
        return self.prompt + " ".join(words[: self.max_words])

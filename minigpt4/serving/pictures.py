"""Images in all accepted forms, preprocessed for a model, and a cache of their embeddings.

Shapes: P tokens per image, D the language model's width.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

import numpy as np
import torch
from PIL import Image

from minigpt4.common.errors import BadSample, DataError
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.processors.pictures import MAX_PIXELS, decode_picture, on_white, open_picture

# The accepted forms of an image. `bytes` are the content of a file.
ImageLike = Union[str, Path, bytes, Image.Image, np.ndarray, torch.Tensor, "Picture"]


@dataclass(frozen=True, eq=False)
class Picture:
    """A preprocessed image.

    Attributes:
        pixels: [3, image_size, image_size]: uint8, or normalised floats.
        key: a hash of the pixels.
    """

    pixels: torch.Tensor = field(repr=False)
    key: str

    @classmethod
    def of(cls, image: ImageLike, processor: ImageProcessor) -> "Picture":
        """Preprocess an image.

        Args:
            image: a path, the bytes of a file, a PIL image, a uint8 array [H, W, 3] or [H, W], a tensor
                [3, H, W] from the processor, or a Picture.
            processor: the model's.

        Raises:
            DataError: for a file that does not exist, cannot be read or is too large, and for other types.
        """
        if isinstance(image, Picture):
            return image
        pixels = image if isinstance(image, torch.Tensor) else processor.to_batch(_decoded(image))
        wanted = [3, processor.image_size, processor.image_size]
        if list(pixels.shape) != wanted or not (pixels.is_floating_point() or pixels.dtype == torch.uint8):
            raise DataError(
                f"an image tensor is {str(pixels.dtype)[6:]} {list(pixels.shape)}, it must be {wanted}, "
                "uint8 or normalised floats"
            )
        pixels = pixels.detach().cpu().contiguous()
        digest = hashlib.sha256(str(pixels.dtype).encode())
        digest.update(pixels.view(torch.uint8).numpy().tobytes())
        return cls(pixels, digest.hexdigest())


def _decoded(image: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image | np.ndarray:
    """RGB pixels."""
    try:
        if isinstance(image, str | Path):
            return open_picture(image)
        if isinstance(image, bytes):
            return decode_picture(image)
        if isinstance(image, Image.Image):
            if image.width * image.height > MAX_PIXELS:
                raise BadSample("image too large")
            return on_white(image)
    except (OSError, ValueError) as error:  # also of names that no file can have
        raise DataError(f"The image cannot be read: {error}.") from error
    except BadSample as bad:
        raise DataError(f"The image cannot be read: {bad}.") from bad
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            raise DataError(
                f"an image array is {image.dtype} {list(image.shape)}, it must be uint8 [H, W, 3] or [H, W]"
            )
        return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else np.ascontiguousarray(image)
    raise DataError(
        f"an image is a {type(image).__name__}, it must be a path, a file's bytes, a PIL image, an array or "
        "a tensor"
    )


def listed(images: "ImageLike | Sequence[ImageLike]") -> Sequence[ImageLike]:
    """One image as a list of one."""
    is_one = isinstance(images, str | Path | bytes | Image.Image | Picture) or (
        isinstance(images, np.ndarray | torch.Tensor) and images.ndim <= 3
    )
    return [images] if is_one else images  # type: ignore[list-item, return-value]


class SeenPictures:
    """A cache of the embeddings of the last images.

    Args:
        embed: pixels [N, 3, H, W] -> embeddings [N, P, D].
        limit: the maximum number of images; the least recently used are dropped first.
        at_once: images per batch of the encoder.
    """

    def __init__(self, embed: Callable[[torch.Tensor], torch.Tensor], limit: int, at_once: int) -> None:
        self._embed, self._limit, self._at_once = embed, limit, at_once
        self._known: OrderedDict[str, torch.Tensor] = OrderedDict()

    def __call__(self, pictures: Sequence[Picture]) -> torch.Tensor | None:
        """The embeddings of pictures, [N, P, D]; None for no picture."""
        new = {picture.key: picture.pixels for picture in pictures if picture.key not in self._known}
        keys_left = list(new)
        while keys_left:
            keys, keys_left = keys_left[: self._at_once], keys_left[self._at_once :]
            embeds = self._embed(torch.stack([new[key] for key in keys]))
            self._known.update(zip(keys, embeds, strict=True))
        for picture in pictures:
            self._known.move_to_end(picture.key)
        wanted = [self._known[picture.key] for picture in pictures]
        while len(self._known) > self._limit:
            self._known.popitem(last=False)
        return torch.stack(wanted) if wanted else None

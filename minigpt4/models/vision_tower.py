"""Pictures to image tokens: the half of the model that needs no language model and, frozen, never changes.

Shapes: N images, P tokens per image.
"""

import logging

import numpy as np
import torch
from torch import nn

from minigpt4.common.errors import ConfigError
from minigpt4.models.bridges import Bridge
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.execution import own_precision
from minigpt4.models.image_tokens import TokenShape
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD, normalize

log = logging.getLogger(__name__)

# What a frozen encoder looks at together on a CPU. glibc maps every tensor of more than 32 MB anew: with 32
# pictures that took more time than EfficientNet-Lite2's arithmetic (benchmarks/README.md).
PIXELS_AT_ONCE = 4 * 224 * 224
WITHOUT_ENCODER = "this model was built for cached features, it has no encoder to look at pixels"


class VisionTower(nn.Module):
    """An encoder, a norm (`ln_vision`), and the bridge behind it.

    Args:
        encoder: with its weights, where and in the dtype in which it runs.
        bridge: likewise.
        image_size: side of the square pictures, in pixels.
        frozen: whether the encoder and the norm stay as they are.
        tokens: how many are left of a picture, as means of neighbours; None: all that the bridge makes.

    Raises:
        ConfigError: if the bridge's tokens cannot be shared out evenly.
    """

    image_mean: torch.Tensor
    image_std: torch.Tensor

    def __init__(
        self,
        encoder: BaseEncoder,
        bridge: Bridge,
        *,
        image_size: int,
        frozen: bool = True,
        tokens: int | None = None,
    ) -> None:
        super().__init__()
        self.tokens = bridge.count if tokens is None else tokens
        if bridge.count % self.tokens:
            raise ConfigError(
                f"model.tokens_per_frame is {tokens}, which does not divide a picture's {bridge.count} tokens"
            )
        self.name, self.image_size, self.frozen = encoder.name, image_size, frozen
        first = next(encoder.parameters())
        self.encoder = encoder
        self.ln_vision = nn.LayerNorm(encoder.width, device=first.device, dtype=first.dtype)
        self.bridge = bridge
        for part in (self.encoder, self.ln_vision):
            part.requires_grad_(not frozen)
        self.register_buffer("image_mean", torch.tensor(encoder.mean, device=first.device), persistent=False)
        self.register_buffer("image_std", torch.tensor(encoder.std, device=first.device), persistent=False)
        self.train(self.training)

    @property
    def token_shape(self) -> TokenShape:
        return TokenShape(self.tokens, self.bridge.width, self.encoder.width)

    def train(self, mode: bool = True) -> "VisionTower":
        """Frozen parts stay in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
            self.ln_vision.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] (uint8, or normalised floats) -> tokens [N, P, width], in the parts' own dtype.

        What was cached of a tower like this one, [N, P, width], is passed on as it is. Frozen, this is a
        function of the picture alone, which is why its values can be cached (`minigpt4 cache-features`).
        """
        if images.ndim == 3:
            return images
        images = self.normalized(images)
        trained = not (self.frozen and self.bridge.frozen)
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):  # else no graph is kept
            with own_precision(self.frozen, images.device):
                tokens = self._encoded(images)
            with own_precision(self.bridge.frozen, images.device):
                tokens = self.bridge(tokens)
            if self.tokens == self.bridge.count:
                return tokens
            return tokens.unflatten(1, (self.tokens, -1)).mean(2)

    def _encoded(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> the encoder's tokens."""
        if images.device.type != "cpu" or not self.frozen:
            return self.ln_vision(self.encoder(images))
        at_once = max(1, PIXELS_AT_ONCE // images.shape[-2:].numel())
        return torch.cat([self.ln_vision(self.encoder(part)) for part in images.split(at_once)])

    def normalized(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 pixels are normalised here, on the device; floats are taken to be normalised already."""
        weight = next(self.encoder.parameters())
        images = images.to(weight.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalize(images, self.image_mean, self.image_std)
        return images.to(weight.dtype)

    def warn_of_other_statistics(self, processor: object, where: str) -> None:
        """Warn if an image processor's mean and std are not those that the encoder was trained with.

        Args:
            processor: its `mean` and `std` are None if it leaves normalisation to the encoder.
            where: its key in the YAML.
        """
        given = [getattr(processor, name, None) for name in ("mean", "std")]
        if given == [None, None]:
            return
        for name, value, usual in zip(("mean", "std"), given, (CLIP_MEAN, CLIP_STD), strict=True):
            taken, own = value or list(usual), list(getattr(self.encoder, name))
            if not np.allclose(taken, own, atol=1e-3):
                log.warning(
                    "%s: pictures are normalised with %s %s, but %s was trained with %s: leave mean and std "
                    "out, unless this is meant",
                    where,
                    name,
                    taken,
                    self.name,
                    own,
                )

    def to_pixels(self, image: torch.Tensor) -> np.ndarray:
        """[3, H, W], uint8 or normalised -> uint8 array [H, W, 3], for a person to look at."""
        if image.dtype != torch.uint8:
            std, mean = (b.cpu().view(3, 1, 1) for b in (self.image_std, self.image_mean))
            image = (image.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
        return image.permute(1, 2, 0).cpu().numpy()


class CachedVision(nn.Module):
    """Stands in for a tower whose tokens were cached: it passes them on, and cannot look at pixels.

    Args:
        token_shape: of the cached tokens.
        name: of the encoder that made them.
        image_size: of the pictures they were made of, in pixels.
    """

    frozen = True

    def __init__(self, token_shape: TokenShape, *, name: str, image_size: int) -> None:
        super().__init__()
        self.token_shape, self.name, self.image_size = token_shape, name, image_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Cached tokens [N, P, width] -> the same. Raises ValueError for pixels."""
        if images.ndim != 3:
            raise ValueError(WITHOUT_ENCODER)
        return images

    def warn_of_other_statistics(self, processor: object, where: str) -> None:
        """There are no pixels."""

    def to_pixels(self, image: torch.Tensor) -> np.ndarray:
        raise ValueError(WITHOUT_ENCODER)

"""What a vision encoder is to the rest of the model.

Shapes: N images; P patches per image; width of the encoder's tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from minigpt4.common.errors import ConfigError, reading
from minigpt4.models.execution import layers_of
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD


class BaseEncoder(nn.Module):
    """A network that makes tokens of pictures. This is what most of them have in common.

    An encoder is a subclass with an `__init__` that builds `module`, and a `forward`; it is registered under
    the name that `model.vit_model` gives it, or named `module:Class` there. `build_encoder` calls it without
    memory for the weights, and loads them.

    Attributes:
        name: `model.vit_model`.
        module: the network. Its tensors are `visual_encoder.<name>` in checkpoints.
        width: of its tokens.
        prefix_tokens: how many tokens before the patches stand for the whole picture (class, registers).
        patches: how many it makes of a picture, P; `build_encoder` finds out.
        mean, std: per-channel statistics of the pictures it was trained on.
        published: where its weights are published, as `model.vit_weights` would name them; None: nowhere.
    """

    name: str
    module: nn.Module
    width: int
    prefix_tokens: int = 0
    patches: int
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD
    published: ClassVar[str | None] = None

    def __init__(self, name: str, image_size: int, **kwargs: Any) -> None:
        """Build the network.

        Args:
            name: `model.vit_model`.
            image_size: side of the square picture in pixels.
            kwargs: `model.vit_kwargs`, and `drop_path_rate` where it is not 0.
        """
        super().__init__()
        self.name = name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised [N, 3, H, W] -> [N, prefix_tokens + P, width]."""
        raise NotImplementedError

    @classmethod
    def published_weights(cls, name: str) -> str | None:
        """Where the weights of the encoder that `model.vit_model` calls `name` are published."""
        return cls.published

    def fit(self, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
        """The tensors of a file of weights under the names of `module`, without those it has no place for.

        Args:
            tensors: what is in the file.
            source: the file, for messages.

        Raises:
            CheckpointError: if they do not fit.
        """
        return dict(tensors.get("model", tensors))

    def blocks(self) -> list[nn.Module]:
        """The repeated parts, which are compiled and recomputed one by one."""
        return layers_of(self.module)

    def set_attention(self, implementation: str | None, device: torch.device, dtype: torch.dtype) -> None:
        """Choose how attention is computed; the default leaves that to the network.

        Args:
            implementation: `model.attn_implementation`; None for the fastest one here.
            device, dtype: where and in what it computes.
        """

    @torch.no_grad()
    def count_patches(self, image_size: int) -> int:
        """P, found by encoding a test picture.

        Raises:
            ConfigError: if the network cannot encode pictures of this size, or does not output tokens.
        """
        first = next(self.parameters())
        ramp = torch.linspace(-1, 1, 3 * image_size**2, dtype=first.dtype, device=first.device)
        training = self.training
        self.eval()  # in training mode, batch norms would be updated
        failed = f"model.vit_model {self.name!r} cannot encode pictures of model.image_size {{}}"
        try:
            with reading(image_size, ConfigError, failed=failed):
                tokens = self(ramp.view(1, 3, image_size, image_size))
        finally:
            self.train(training)
        shape = list(tokens.shape)
        if len(shape) != 3 or shape[1] <= self.prefix_tokens or shape[2] != self.width:
            raise ConfigError(
                f"model.vit_model {self.name!r} makes {shape} of a picture, it must be "
                f"[1, {self.prefix_tokens} + patches, {self.width}]"
            )
        if not tokens.isfinite().all():
            raise ConfigError(
                f"model.vit_model {self.name!r} makes tokens in {first.dtype} that are not finite: are its "
                "weights whole, and is model.vit_precision one that it survives (bf16, fp32)?"
            )
        return shape[1] - self.prefix_tokens

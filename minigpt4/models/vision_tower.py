"""Pictures to tokens: the half of the models that needs no language model and, frozen, never changes.

Shapes: N images, P tokens an image.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from minigpt4.common.device import dtype_for, pick_device
from minigpt4.common.errors import ConfigError
from minigpt4.models.base_model import BaseModel
from minigpt4.models.encoders.timm_models import (
    EVA_CLIP_G,
    build_vision_encoder,
    image_statistics,
    published_weights,
    vision_blocks,
    visual_tokens,
)
from minigpt4.models.execution import compile_blocks
from minigpt4.models.qformer import build_qformer, load_blip2, to_original_key
from minigpt4.processors.blip_processors import normalize
from minigpt4.weights.locations import BLIP2_URL
from minigpt4.weights.resolver import WeightSource, read_tensors, resolve_file

# Beginnings of the parameters' names that an image passes on its way to the projection.
VISION_PARTS = ("visual_encoder.", "ln_vision.", "Qformer.", "query_tokens")


@dataclass(frozen=True)
class TokenShape:
    """What an image becomes before the projection.

    Attributes:
        count: P, tokens an image.
        width: of each.
        vit_width: of the encoder that made them.
    """

    count: int
    width: int
    vit_width: int


class ImageTokens(BaseModel):
    """The encoder, and behind it the Q-Former, or the joining of neighbouring patches.

    Args:
        vit_model, vit_weights, vit_kwargs, image_size, drop_path_rate, use_grad_checkpoint: see
            `build_vision_encoder`.
        vit_precision: fp16, bf16 or fp32, for the frozen encoder and Q-Former; what is trained is fp32.
        freeze_vit: whether the encoder and its `ln_vision` stay as they are.
        has_qformer: False joins the encoder's tokens, `patches_per_token` in a row, instead.
        q_former_model: BLIP-2's file, with Q-Former, queries and `ln_vision`; None for random weights,
            which must be trained (`freeze_qformer: False`).
        q_former_kwargs: overrides of the Q-Former's sizes.
        freeze_qformer: whether Q-Former and queries stay as they are.
        num_query_token: tokens an image becomes.
        patches_per_token: without Q-Former, how many neighbours in raster order make one token.
        attn_implementation: the encoder's.
        compile: have torch compile the encoder and the Q-Former at their first use.
        features: where the tokens come from a cache: their shape. None of the parts is built then.
        device: where everything goes; None takes the best there is.
    """

    def __init__(
        self,
        *,
        vit_model: str,
        vit_weights: str | None,
        vit_kwargs: dict[str, Any] | None,
        vit_precision: str,
        image_size: int,
        drop_path_rate: float,
        use_grad_checkpoint: bool,
        freeze_vit: bool,
        has_qformer: bool,
        q_former_model: str | None,
        q_former_kwargs: dict[str, Any] | None,
        freeze_qformer: bool,
        num_query_token: int,
        patches_per_token: int,
        attn_implementation: str | None,
        compile: bool,
        features: TokenShape | None,
        device: str | torch.device | None,
    ) -> None:
        super().__init__()
        if not isinstance(features, TokenShape | None):
            raise ConfigError("unknown key model.features: it follows from the datasets")
        self._target_device = pick_device(device)
        self.vit_dtype = dtype_for(vit_precision, self._target_device, "model.vit_precision")
        self.image_size = image_size
        self.has_qformer = has_qformer
        self.patches_per_token = patches_per_token
        if features is not None:
            self.token_shape = features
            return
        q_former_path = _q_former_path(has_qformer, q_former_model, freeze_qformer)
        self.visual_encoder = build_vision_encoder(
            vit_model,
            image_size,
            vit_weights=vit_weights,
            vit_kwargs=vit_kwargs,
            drop_path_rate=drop_path_rate,
            use_grad_checkpoint=use_grad_checkpoint,
            attn_implementation=attn_implementation,
            dtype=self.vit_dtype if freeze_vit else torch.float32,
            device=self._target_device,
        )
        self.loaded_elsewhere += ("visual_encoder.", "ln_vision.")
        width = self.visual_encoder.num_features
        self.ln_vision = nn.LayerNorm(width)
        if freeze_vit:
            self.freeze(self.visual_encoder)
            self.freeze(self.ln_vision)
        mean, std = image_statistics(self.visual_encoder)
        self.register_buffer("image_mean", torch.tensor(mean), persistent=False)
        self.register_buffer("image_std", torch.tensor(std), persistent=False)
        if has_qformer:
            self._add_qformer(q_former_path, num_query_token, q_former_kwargs, freeze_qformer)
            self.token_shape = TokenShape(num_query_token, self.query_tokens.shape[-1], width)
        else:
            count = self._count_joined_tokens()
            self.token_shape = TokenShape(count, width * patches_per_token, width)
        self._settle_vision()
        if compile:
            compile_blocks(vision_blocks(self.visual_encoder), self._target_device)
            if has_qformer:
                compile_blocks(self.Qformer.encoder.layer, self._target_device)

    def _add_qformer(
        self, path: Any, num_query_token: int, kwargs: dict[str, Any] | None, frozen: bool
    ) -> None:
        self.Qformer, self.query_tokens = build_qformer(
            num_query_token, self.visual_encoder.num_features, kwargs, empty=path is not None
        )
        if path is not None:
            dtype = self.vit_dtype if frozen else torch.float32
            tensors = read_tensors(path, mapped=True)
            load_blip2(self, tensors, source=str(path), dtype=dtype, device=self._target_device)
            self.loaded_elsewhere += ("Qformer.", "query_tokens")
        if frozen:
            self.freeze(self.Qformer)
            self.query_tokens.requires_grad_(False)

    def _settle_vision(self) -> None:
        """Everything on its device, the frozen parts in their dtype."""
        for module in self.children():
            module.to(self._target_device, self.vit_dtype if module in self._frozen else torch.float32)
        for tensor in (*self._parameters.values(), *self._buffers.values()):
            tensor.data = tensor.data.to(self._target_device)

    @torch.no_grad()
    def _count_joined_tokens(self) -> int:
        """How many tokens an image becomes without Q-Former; found by looking at an empty one."""
        first = next(self.visual_encoder.parameters())
        image = torch.zeros(1, 3, self.image_size, self.image_size, dtype=first.dtype, device=first.device)
        patches = self._patches(image).shape[1]
        if patches % self.patches_per_token:
            raise ConfigError(
                f"model.patches_per_token is {self.patches_per_token}, which does not divide the encoder's "
                f"{patches} tokens"
            )
        return patches // self.patches_per_token

    def _patches(self, image: torch.Tensor) -> torch.Tensor:
        """The encoder's tokens without the class token."""
        return visual_tokens(self.visual_encoder, image)[
            :, getattr(self.visual_encoder, "num_prefix_tokens", 0) :
        ]

    def image_tokens(self, image: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] (uint8, or normalised floats) -> tokens [N, P, width], in the parts' own dtype.

        Frozen, this is a function of the picture alone, which is why its values can be kept
        (`minigpt4 cache-features`).
        """
        image = self._normalized(image)
        # Nothing of it is trained: no graph is kept.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._vision_is_frozen()):
            return self._look(image)

    def _look(self, image: torch.Tensor) -> torch.Tensor:
        """Normalised [N, 3, H, W] -> tokens [N, P, width]."""
        with self.own_precision(self.visual_encoder):
            if self.has_qformer:
                vision = self.ln_vision(visual_tokens(self.visual_encoder, image))
            else:
                patches = self.ln_vision(self._patches(image))
                count, number, width = patches.shape
                together = self.patches_per_token
                return patches.reshape(count, number // together, width * together)
        with self.own_precision(self.Qformer):
            return self._query(vision)

    def _vision_is_frozen(self) -> bool:
        parts = (self.visual_encoder, *((self.Qformer,) if self.has_qformer else ()))
        return all(part in self._frozen for part in parts)

    def _query(self, vision: torch.Tensor) -> torch.Tensor:
        """Encoder tokens [N, patches, width] -> query tokens [N, P, hidden]."""
        dtype = self.Qformer.layernorm.weight.dtype
        queries = self.query_tokens.to(dtype).expand(len(vision), -1, -1)
        return self.Qformer(query_embeds=queries, encoder_hidden_states=vision.to(dtype)).last_hidden_state

    def _normalized(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 pixels are normalised here, on the device; floats are taken to be so already."""
        if not hasattr(self, "visual_encoder"):
            raise ValueError("this model was built for cached features, it has no encoder to look at pixels")
        image = image.to(self.device, non_blocking=True)
        if image.dtype == torch.uint8:
            image = normalize(image, self.image_mean, self.image_std)
        return image.to(next(self.visual_encoder.parameters()).dtype)

    def to_pixels(self, image: torch.Tensor) -> np.ndarray:
        """[3, H, W], uint8 or normalised -> uint8 array [H, W, 3], for a person to look at."""
        if image.dtype != torch.uint8:
            std, mean = (b.cpu().view(3, 1, 1) for b in (self.image_std, self.image_mean))
            image = (image.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
        return image.permute(1, 2, 0).cpu().numpy()

    def checkpoint_key(self, name: str) -> str:
        return to_original_key(name)

    @classmethod
    def vision_arguments(cls, cfg: Mapping) -> dict[str, Any]:
        """What a `model:` section says of `ImageTokens`' arguments, the model class's defaults included."""
        given = cls.arguments(cfg)
        own = inspect.signature(cls).parameters
        wanted = inspect.signature(ImageTokens).parameters
        return {name: given.get(name, own[name].default) for name in wanted if name in own}

    @classmethod
    def vision_sources(cls, cfg: Mapping) -> list[WeightSource]:
        """The files that the encoder and the Q-Former of a `model:` section need."""
        vit_weights = cfg.get("vit_weights") or published_weights(cfg.get("vit_model", EVA_CLIP_G))
        blip2 = cfg.get("q_former_model", BLIP2_URL)
        sources = [WeightSource("model.vit_weights", vit_weights, "file")]
        if cfg.get("has_qformer", True) and blip2 is not None:
            sources.append(WeightSource("model.q_former_model", blip2, "file"))
        return sources


def _q_former_path(has_qformer: bool, q_former_model: str | None, frozen: bool) -> Any:
    if has_qformer and q_former_model is not None:
        return resolve_file(q_former_model, "model.q_former_model")
    if has_qformer and frozen:
        raise ConfigError(
            "model.q_former_model is null, so the Q-Former begins with random weights, but "
            "model.freeze_qformer is True: please name BLIP-2's file, or train it"
        )
    return None

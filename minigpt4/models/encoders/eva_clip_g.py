"""EVA-CLIP-g as BLIP-2 cuts it (Sun et al. 2023, arXiv:2303.15389): MiniGPT-4's EVA-ViT-g."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import nn

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.common.schema import key, parse
from minigpt4.models.encoders.timm_models import TimmEncoder
from minigpt4.models.stock_names import from_blip2
from minigpt4.weights.locations import EVA_CLIP_G_URL


@dataclass(frozen=True, kw_only=True)
class EvaSizes:
    """EVA-CLIP-g has 40 blocks; BLIP-2 cut off the last one and takes what the 39th makes, unnormalised."""

    patch_size: int = key(14, low=1)
    embed_dim: int = key(1408, low=1)
    depth: int = key(39, low=1)
    num_heads: int = key(16, low=1)
    mlp_ratio: float = key(6144 / 1408, low=0)


@registry.register_encoder("eva_clip_g")
class EvaClipG(TimmEncoder):
    """timm's `Eva` at EVA-CLIP-g's sizes, without its last norm."""

    published = EVA_CLIP_G_URL
    module: Eva

    @staticmethod
    def create(name: str, image_size: int, drop_path_rate: float, **kwargs: Any) -> Eva:
        """The network; `kwargs` as in EvaSizes."""
        sizes = parse(EvaSizes, kwargs, "model.vit_kwargs")
        if image_size % sizes.patch_size:
            raise ConfigError(
                f"model.image_size is {image_size}, which is not a multiple of the encoder's patches of "
                f"{sizes.patch_size} pixels"
            )
        encoder = Eva(
            img_size=image_size,
            num_classes=0,
            global_pool="",
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            drop_path_rate=drop_path_rate,
            **asdict(sizes),
        )
        encoder.norm = nn.Identity()
        return encoder

    @classmethod
    def published_weights(cls, name: str) -> str | None:
        return cls.published

    def count_patches(self, image_size: int) -> int:
        """P, without encoding a picture, which takes seconds on a CPU."""
        return self.module.patch_embed.num_patches

    def fit(self, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
        """What BLIP-2 keeps, with position embeddings for this image size."""
        eva, tensors = self.module, from_blip2(tensors.get("model", tensors))
        pos_embed, own = tensors.get("pos_embed"), eva.pos_embed
        if pos_embed is not None and own is not None and pos_embed.shape[1] != own.shape[1]:
            # Bicubic without antialiasing, as BLIP-2 resizes them.
            tensors["pos_embed"] = resample_abs_pos_embed(
                pos_embed.float(),
                list(eva.patch_embed.grid_size),
                num_prefix_tokens=eva.num_prefix_tokens,
                antialias=False,
            )

        def kept(key: str) -> bool:
            part, _, rest = key.partition(".")
            if part == "blocks":
                return int(rest.split(".")[0]) < len(eva.blocks)
            return part not in ("norm", "fc_norm", "head")

        return {key: value for key, value in tensors.items() if kept(key)}

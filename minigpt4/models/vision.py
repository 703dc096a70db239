"""The vision encoder: EVA-ViT-g as MiniGPT-4 uses it, or any timm model by name."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import nn

from minigpt4.common.checkpoint import load_into, require_keys
from minigpt4.common.errors import CheckpointError, ConfigError, nearest
from minigpt4.common.weights import read_tensors, resolve
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD

EVA_CLIP_G = "eva_clip_g"
EVA_CLIP_G_URL = (
    "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"
)
# EVA-CLIP-g has 40 blocks; BLIP-2 cut the last one off and takes the output of the 39th, unnormalised.
EVA_CLIP_G_KWARGS = {
    "patch_size": 14,
    "embed_dim": 1408,
    "depth": 39,
    "num_heads": 1408 // 88,
    "mlp_ratio": 6144 / 1408,
}


def build_vision_encoder(
    vit_model: str = EVA_CLIP_G,
    image_size: int = 224,
    *,
    vit_weights: str | None = None,
    vit_kwargs: Mapping[str, Any] | None = None,
    drop_path_rate: float = 0.0,
    use_grad_checkpoint: bool = False,
) -> nn.Module:
    """Build an encoder with its weights, in float32 on the CPU.

    Args:
        vit_model: `eva_clip_g`, or the name of a timm model.
        image_size: side of the square input, in pixels.
        vit_weights: see `minigpt4.common.weights.resolve`; None means the published ones.
        vit_kwargs: overrides of the architecture.
        drop_path_rate, use_grad_checkpoint: for training the encoder itself.

    Returns:
        A module with `num_features` (its width) that `visual_tokens` can read.

    Raises:
        ConfigError: for a model timm does not know, or arguments it does not take.
        CheckpointError: if the weights do not fit.
    """
    kwargs = dict(vit_kwargs or {})
    try:
        if vit_model == EVA_CLIP_G:
            encoder = _eva_clip_g(image_size, drop_path_rate, kwargs)
            source = EVA_CLIP_G_URL if vit_weights is None else vit_weights
        else:
            encoder = timm.create_model(
                vit_model,
                pretrained=vit_weights is None,
                num_classes=0,
                drop_path_rate=drop_path_rate,
                **kwargs,
            )
            source = vit_weights
    except (TypeError, RuntimeError) as error:
        raise ConfigError(f"model.vit_model {vit_model!r} with vit_kwargs {kwargs}: {error}") from error
    if source is not None:
        weights = resolve(source, "model.vit_weights")
        load_vision_weights(encoder, read_tensors(weights), source=str(weights))
    if use_grad_checkpoint:
        encoder.set_grad_checkpointing()
    return encoder


def _eva_clip_g(image_size: int, drop_path_rate: float, overrides: Mapping[str, Any]) -> Eva:
    unknown = set(overrides) - set(EVA_CLIP_G_KWARGS)
    if unknown:
        raise ConfigError(
            f"unknown key model.vit_kwargs.{sorted(unknown)[0]}"
            f"{nearest(sorted(unknown)[0], EVA_CLIP_G_KWARGS)} (known: {', '.join(EVA_CLIP_G_KWARGS)})"
        )
    encoder = Eva(
        img_size=image_size,
        num_classes=0,
        global_pool="",
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        drop_path_rate=drop_path_rate,
        **{**EVA_CLIP_G_KWARGS, **overrides},
    )
    encoder.norm = nn.Identity()
    return encoder


def load_vision_weights(encoder: nn.Module, tensors: Mapping[str, Any], *, source: str) -> None:
    """Load a state dict, whole, into an encoder; position embeddings are resized to its image size.

    Raises:
        CheckpointError: for missing or unexpected keys, or shapes that differ.
    """
    tensors = dict(tensors.get("model", tensors))
    if all(key not in encoder.state_dict() for key in tensors):
        tensors = _match_by_order(encoder, tensors, source)
    pos_embed = tensors.get("pos_embed")
    if pos_embed is not None and pos_embed.shape[1] != encoder.pos_embed.shape[1]:
        # Bicubic without antialiasing, as BLIP-2 resizes them.
        tensors["pos_embed"] = resample_abs_pos_embed(
            pos_embed.float(),
            list(encoder.patch_embed.grid_size),
            num_prefix_tokens=encoder.num_prefix_tokens,
            antialias=False,
        )
    tensors = {key: value for key, value in tensors.items() if not _beyond_depth(encoder, key)}
    require_keys({name for name, _ in encoder.named_parameters()}, tensors, source=source)
    load_into(encoder, tensors, source=source)


def _beyond_depth(encoder: nn.Module, key: str) -> bool:
    """Whether a key belongs to what BLIP-2 cuts off EVA-CLIP: later blocks, the final norm, the head."""
    if not isinstance(encoder, Eva):
        return False
    part, _, rest = key.partition(".")
    if part == "blocks":
        return int(rest.split(".")[0]) >= len(encoder.blocks)
    return part in ("norm", "fc_norm", "head")


def _match_by_order(
    encoder: nn.Module, tensors: Mapping[str, torch.Tensor], source: str
) -> dict[str, torch.Tensor]:
    """Rename a checkpoint of the same network under other names, tensor by tensor in order.

    Ported networks (EfficientNet-Lite in several packages) list the same tensors in the same order. Each
    shape must agree, and the last part of each name (weight, bias, running_mean, ...); tensors beyond the
    encoder's last (the classifier) are left out.
    """
    own = encoder.state_dict()
    if len(tensors) < len(own):
        raise CheckpointError(f"{source}: {len(tensors)} tensors, the encoder has {len(own)}")
    for (name, place), (key, value) in zip(own.items(), tensors.items(), strict=False):
        if place.shape != value.shape or name.rsplit(".", 1)[-1] != key.rsplit(".", 1)[-1]:
            raise CheckpointError(
                f"{source}: neither names nor order of its tensors fit the encoder: {key} is "
                f"{list(value.shape)} where {name} is {list(place.shape)}"
            )
    return dict(zip(own, tensors.values(), strict=False))


def visual_tokens(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Normalised [B, 3, H, W] -> [B, tokens, width]; a feature map is read row by row."""
    features = encoder.forward_features(image)
    if features.ndim == 4:
        features = features.flatten(2).transpose(1, 2)
    return features


def image_statistics(encoder: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """The per-channel mean and std the encoder was trained with (CLIP's for EVA-CLIP-g)."""
    config = getattr(encoder, "pretrained_cfg", None) or {}
    return config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)

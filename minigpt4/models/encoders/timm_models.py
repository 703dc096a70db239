"""The vision encoder: EVA-ViT-g as MiniGPT-4 uses it, or any timm model by name."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
import torch
from accelerate import init_empty_weights
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from torch import nn

from minigpt4.common.errors import CheckpointError, ConfigError, nearest
from minigpt4.models.execution import plain_attention_wins
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD
from minigpt4.weights.checkpoint import load_into, require_keys
from minigpt4.weights.locations import EVA_CLIP_G_URL
from minigpt4.weights.resolver import read_tensors, resolve_file

EVA_CLIP_G = "eva_clip_g"
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
    attn_implementation: str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Build an encoder with its weights, which go from the file straight into `dtype` on `device`.

    Args:
        vit_model: `eva_clip_g`, or the name of a timm model.
        image_size: side of the square input, in pixels.
        vit_weights: see `minigpt4.weights.resolver.resolve_file`; None means the published ones.
        vit_kwargs: overrides of the architecture.
        drop_path_rate, use_grad_checkpoint: for training the encoder itself.
        attn_implementation: `eager` computes attention in plain products; everything else leaves it to
            torch's `scaled_dot_product_attention`, which chooses the flash kernel where it fits. None
            takes the faster.
        dtype, device: where the weights are wanted.

    Returns:
        A module with `num_features` (its width) that `visual_tokens` can read.

    Raises:
        ConfigError: for a model timm does not know, or arguments it does not take.
        CheckpointError: if the weights do not fit.
    """
    kwargs = dict(vit_kwargs or {})
    source = published_weights(vit_model) if vit_weights is None else vit_weights
    try:
        with init_empty_weights(include_buffers=False):
            if vit_model == EVA_CLIP_G:
                encoder = _eva_clip_g(image_size, drop_path_rate, kwargs)
            else:
                encoder = _timm_encoder(vit_model, image_size, drop_path_rate, kwargs)
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ConfigError(f"model.vit_model {vit_model!r} with vit_kwargs {kwargs}: {error}") from error
    weights = resolve_file(source, "model.vit_weights")
    tensors = read_tensors(weights, mapped=True)
    if vit_model == EVA_CLIP_G:
        tensors = _fit_eva_clip_g(encoder, tensors)
    else:
        tensors = _fit_timm(encoder, tensors, str(weights))
    require_keys({name for name, _ in encoder.named_parameters()}, tensors, source=str(weights))
    load_into(encoder, tensors, source=str(weights), dtype=dtype, device=device)
    encoder.to(device, dtype)  # buffers; the parameters are there already
    if use_grad_checkpoint:
        encoder.set_grad_checkpointing()
    tokens = getattr(getattr(encoder, "patch_embed", None), "num_patches", 0)
    wins = plain_attention_wins(torch.device(device), dtype, tokens)
    if attn_implementation == "eager" or (attn_implementation is None and wins):
        for module in encoder.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
    return encoder


def published_weights(vit_model: str) -> str:
    """Where an encoder's own weights are published: a URL, or the id of a repository on the hub.

    Raises:
        ConfigError: for a model timm does not know, or has no weights for.
    """
    if vit_model == EVA_CLIP_G:
        return EVA_CLIP_G_URL
    if not timm.is_model(vit_model):
        raise ConfigError(
            f"model.vit_model {vit_model!r} is neither {EVA_CLIP_G} nor a model of timm"
            f"{nearest(vit_model, timm.list_models())}"
        )
    config = timm.get_pretrained_cfg(vit_model, allow_unregistered=False)
    published = config and (config.hf_hub_id or config.url)
    if not published:
        raise ConfigError(f"model.vit_weights: timm publishes no weights of {vit_model}: please name a file")
    return published


def _eva_clip_g(image_size: int, drop_path_rate: float, overrides: Mapping[str, Any]) -> Eva:
    unknown = set(overrides) - set(EVA_CLIP_G_KWARGS)
    if unknown:
        raise ConfigError(
            f"unknown key model.vit_kwargs.{sorted(unknown)[0]}"
            f"{nearest(sorted(unknown)[0], EVA_CLIP_G_KWARGS)} (known: {', '.join(EVA_CLIP_G_KWARGS)})"
        )
    kwargs = {**EVA_CLIP_G_KWARGS, **overrides}
    if image_size % kwargs["patch_size"]:
        raise ConfigError(
            f"model.image_size is {image_size}, which is no multiple of the encoder's patches of "
            f"{kwargs['patch_size']} pixels"
        )
    encoder = Eva(
        img_size=image_size,
        num_classes=0,
        global_pool="",
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        drop_path_rate=drop_path_rate,
        **kwargs,
    )
    encoder.norm = nn.Identity()
    return encoder


def _timm_encoder(
    vit_model: str, image_size: int, drop_path_rate: float, kwargs: Mapping[str, Any]
) -> nn.Module:
    # Networks with position embeddings are built for one image size; the others take any.
    config = timm.get_pretrained_cfg(vit_model)
    size = {"img_size": image_size} if config and config.fixed_input_size else {}
    return timm.create_model(
        vit_model, pretrained=False, num_classes=0, drop_path_rate=drop_path_rate, **size, **kwargs
    )


def _fit_eva_clip_g(encoder: Eva, tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of EVA-CLIP-g that BLIP-2 keeps, with position embeddings for this image size."""
    tensors = dict(tensors.get("model", tensors))
    pos_embed = tensors.get("pos_embed")
    if pos_embed is not None and pos_embed.shape[1] != encoder.pos_embed.shape[1]:
        # Bicubic without antialiasing, as BLIP-2 resizes them.
        tensors["pos_embed"] = resample_abs_pos_embed(
            pos_embed.float(),
            list(encoder.patch_embed.grid_size),
            num_prefix_tokens=encoder.num_prefix_tokens,
            antialias=False,
        )

    def kept(key: str) -> bool:
        part, _, rest = key.partition(".")
        if part == "blocks":
            return int(rest.split(".")[0]) < len(encoder.blocks)
        return part not in ("norm", "fc_norm", "head")

    return {key: value for key, value in tensors.items() if kept(key)}


def _fit_timm(encoder: nn.Module, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
    """The tensors under timm's names, fitted to this image size by timm, without the classifier."""
    tensors = dict(tensors.get("model", tensors))
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        tensors = convert(tensors, encoder)
    if all(key not in encoder.state_dict() for key in tensors):
        tensors = _match_by_order(encoder, tensors, source)
    classifier = encoder.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    left_out = tuple(f"{name}." for name in names)
    return {key: value for key, value in tensors.items() if not key.startswith(left_out)}


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


def vision_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The modules that an encoder is a row of: a transformer's blocks, a convolutional network's stages."""
    return list(getattr(encoder, "blocks", encoder.children()))


def image_statistics(encoder: nn.Module) -> tuple[Sequence[float], Sequence[float]]:
    """The per-channel mean and std the encoder was trained with (CLIP's for EVA-CLIP-g)."""
    config = getattr(encoder, "pretrained_cfg", None) or {}
    return config.get("mean", CLIP_MEAN), config.get("std", CLIP_STD)

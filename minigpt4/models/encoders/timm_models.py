"""Models of timm: transformers and convolutional networks."""

import logging
import sys
from collections.abc import Mapping
from math import isqrt
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.patch_embed import PatchEmbed
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, layer_norm

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.execution import plain_attention_wins
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD

log = logging.getLogger(__name__)


class TimmEncoder(BaseEncoder):
    """A network of timm, named by `model.vit_model`, that outputs a square grid of patches.

    A feature map, channels first or last, is flattened row by row. Class and register tokens before the
    patches are kept for a Q-Former; joined patches leave them out.

    Args:
        name, image_size, drop_path_rate: as in the YAML.
        stages: so many of the network's last stages are joined to each patch, averaged to the patches' grid.
            Each part is normalised, since a network's stages differ in scale.
        kwargs: for timm.
    """

    module: Any  # the attributes that are read of it are not nn.Module's

    def __init__(
        self, name: str, image_size: int, drop_path_rate: float = 0.0, stages: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(name, image_size)
        self.image_size, self.stages = image_size, stages
        self.module = self.create(name, image_size, drop_path_rate, **kwargs)
        self.width = self.module.num_features + sum(self._widths_of_stages())
        self.prefix_tokens = getattr(self.module, "num_prefix_tokens", 0)
        self.trained_with = getattr(self.module, "pretrained_cfg", None) or {}
        self.mean = self.trained_with.get("mean", CLIP_MEAN)
        self.std = self.trained_with.get("std", CLIP_STD)

    def _widths_of_stages(self) -> list[int]:
        if not self.stages:
            return []
        known = list(getattr(self.module, "feature_info", ()))
        asked = f"model.vit_kwargs.stages is {self.stages!r}"
        if not hasattr(self.module, "forward_intermediates") or getattr(self.module, "num_prefix_tokens", 0):
            raise ConfigError(f"{asked}, but {self.name!r} has no stages that could be joined to its patches")
        if type(self.stages) is not int or not 0 < self.stages <= len(known):
            raise ConfigError(f"{asked}, it must be from 1 to the {len(known)} stages of {self.name!r}")
        return [stage["num_chs"] for stage in known[-self.stages :]]

    @staticmethod
    def create(name: str, image_size: int, drop_path_rate: float, **kwargs: Any) -> Any:
        """The network, without its classifier."""
        # Networks with position embeddings are built for one image size; the others take any.
        config = timm.get_pretrained_cfg(name)
        if config and config.fixed_input_size:
            kwargs["img_size"] = image_size
        if drop_path_rate:  # not all networks have it
            kwargs["drop_path_rate"] = drop_path_rate
        network = timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
        if not drop_path_rate:  # some have it by default
            for module in network.modules():
                if isinstance(module, DropPath):
                    module.drop_prob = 0.0
        return network

    @classmethod
    def published_weights(cls, name: str) -> str | None:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
        published = (config.hf_hub_id or config.url) if config else None
        return published if isinstance(published, str) else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.stages:
            return self._tokens(self.module.forward_features(images))
        features, maps = self.module.forward_intermediates(images, indices=self.stages)
        patches = self._tokens(features)
        side = isqrt(patches.shape[1])
        means = [adaptive_avg_pool2d(one, side).flatten(2).transpose(1, 2) for one in maps]
        return torch.cat([layer_norm(part, part.shape[2:]) for part in (patches, *means)], dim=2)

    def _tokens(self, features: Any) -> torch.Tensor:
        """Feature map or tokens -> [N, prefix_tokens + P, width of the network]."""
        if not isinstance(features, torch.Tensor):
            raise ConfigError(
                f"model.vit_model {self.name!r} outputs several feature maps, not one grid of patches: "
                "please choose another encoder"
            )
        if features.ndim != 4:
            return features
        if features.shape[1] != self.module.num_features:  # channels last
            return features.flatten(1, 2)
        return features.flatten(2).transpose(1, 2)

    def count_patches(self, image_size: int) -> int:
        patches = super().count_patches(image_size)
        if patches == 1 or isqrt(patches) ** 2 != patches:
            raise ConfigError(
                f"model.vit_model {self.name!r} makes {patches} tokens of a picture of {image_size} pixels, "
                f"beside {self.prefix_tokens} for the whole: that is no grid of patches"
            )
        return patches

    def fit(self, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
        """timm's own names, fitted to this image size by timm, or the same tensors in the same order."""
        self._warn_of_other_size()
        tensors = dict(tensors.get("model", tensors))
        convert = getattr(sys.modules[type(self.module).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            tensors = convert(tensors, self.module)
        if all(key not in self.module.state_dict() for key in tensors):
            tensors = _match_by_order(self.module, tensors, source)
        classifier = self.module.pretrained_cfg.get("classifier") or ()
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        left_out = tuple(f"{name}." for name in names)
        return {key: value for key, value in tensors.items() if not key.startswith(left_out)}

    def _warn_of_other_size(self) -> None:
        """Warn if a network with position embeddings was trained at another size (from its tag)."""
        size, trained = self.image_size, self.trained_with.get("input_size", (3, 0))[-1]
        if not self.trained_with.get("fixed_input_size") or size == trained:
            return
        embed = getattr(self.module, "patch_embed", None)
        unseen = size % int(embed.patch_size[0]) if isinstance(embed, PatchEmbed) else 0
        log.warning(
            "model.image_size is %d, but %s was trained on pictures of %d pixels: its position embeddings "
            "are interpolated%s",
            size,
            self.name,
            trained,
            f", and the last {unseen} pixels of each row and column are not seen" if unseen else "",
        )

    def blocks(self) -> list[nn.Module]:
        """A transformer's blocks, a convolutional network's stages."""
        # Not the list that holds them: `forward_intermediates` calls what is in it.
        for name in ("blocks", "stages", "layers"):
            if hasattr(self.module, name):
                return list(getattr(self.module, name))
        return list(self.module.children())

    def set_attention(self, implementation: str | None, device: torch.device, dtype: torch.dtype) -> None:
        patches = getattr(getattr(self.module, "patch_embed", None), "num_patches", 0)
        wins = plain_attention_wins(device, dtype, patches)
        if implementation == "eager" or (implementation is None and wins):
            for module in self.module.modules():
                if hasattr(module, "fused_attn"):
                    module.fused_attn = False


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

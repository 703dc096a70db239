"""Encoders of transformers: any vision transformer whose `last_hidden_state` is its tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModel

from minigpt4.common.errors import CheckpointError
from minigpt4.models.encoders import BaseEncoder

# Class and register tokens before the patches.
PREFIX_TOKENS = {
    **dict.fromkeys(("aimv2_vision_model", "ijepa", "siglip_vision_model"), 0),
    **dict.fromkeys(("beit", "chinese_clip_vision_model", "clip_vision_model", "data2vec-vision"), 1),
    **dict.fromkeys(("dinov2", "internvl_vision", "mlcd_vision_model", "vit", "vit_msn"), 1),
    "deit": 2,
    "dinov2_with_registers": 5,
}


class TransformersEncoder(BaseEncoder):
    """`model.vit_kwargs`: `model_type`, and the arguments of its config."""

    def __init__(self, name: str, image_size: int, model_type: str, **kwargs: Any) -> None:
        super().__init__(name, image_size)
        config = CONFIG_MAPPING[model_type](image_size=image_size, **kwargs)
        self.module, self.width = AutoModel.from_config(config), config.hidden_size
        self.prefix_tokens = PREFIX_TOKENS[model_type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(pixel_values=images).last_hidden_state

    def fit(self, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
        """As the library reads them: it knows the names of older files, and the whole models' parts."""
        read, found = type(self.module).from_pretrained(
            Path(source).parent, config=self.module.config, use_safetensors=True, output_loading_info=True
        )
        if found["missing_keys"]:  # the library draws them at random
            raise CheckpointError(f"{source}: {min(found['missing_keys'])} is missing")
        return read.state_dict()

"""An encoder of transformers: CLIP's vision half."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from minigpt4.models.encoders import BaseEncoder


class ClipEncoder(BaseEncoder):
    """`model.vit_kwargs` are the arguments of CLIPVisionConfig."""

    published = "openai/clip-vit-base-patch32"
    prefix_tokens = 1

    def __init__(self, name: str, image_size: int, **kwargs: Any) -> None:
        super().__init__(name, image_size)
        config = CLIPVisionConfig(image_size=image_size, **kwargs)
        self.module, self.width = CLIPVisionModel(config), config.hidden_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images).last_hidden_state

    def fit(self, tensors: Mapping[str, Any], source: str) -> dict[str, torch.Tensor]:
        """The vision half, whose names begin with `vision_model.` in a file of the whole CLIP."""
        found = {key.removeprefix("vision_model."): value for key, value in tensors.items()}
        own = {name: name.removeprefix("vision_model.") for name in self.module.state_dict()}
        return {name: found[short] for name, short in own.items() if short in found}

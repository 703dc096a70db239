"""A vision tower for transformers' LLaVA: what a picture passes on its way to the projection.

Importing this module registers it with `AutoConfig` and `AutoModel`, so that transformers loads a folder that
`minigpt4 export --format llava` wrote.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minigpt4.common.exported import check_encoder
from minigpt4.models.bridges import Bridge, JoinedPatches
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.encoders.build import encoder_class
from minigpt4.models.qformer import QFormerBridge, build_qformer
from minigpt4.models.vision_tower import VisionTower


class MiniGPTVisionConfig(PreTrainedConfig):
    """The keys of `model:` that decide the architecture of a vision tower, and what follows from them.

    Attributes:
        hidden_size: of an image token.
        patches: how many the encoder makes of a picture.
    """

    model_type = "minigpt4_vision"

    hidden_size: int = 0
    patches: int = 0
    image_size: int = 224
    vit_model: str = ""
    vit_kwargs: dict[str, Any] | None = None
    patches_per_token: int = 1
    has_qformer: bool = False
    q_former_kwargs: dict[str, Any] | None = None
    num_query_token: int = 0


class MiniGPTVisionTower(PreTrainedModel):
    """Normalised pixels [N, 3, H, W] -> image tokens [N, P, width], as `last_hidden_state`.

    Raises:
        ConfigError: for an encoder outside the package, or arguments that name files.
    """

    config: MiniGPTVisionConfig
    config_class = MiniGPTVisionConfig
    main_input_name = "pixel_values"
    _encode: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, config: MiniGPTVisionConfig) -> None:
        super().__init__(config)
        check_encoder(config.vit_model, config.vit_kwargs, "config.json")
        # transformers draws buffers that are not in the files anew: here all of them are.
        with torch.device("cpu"), init_empty_weights(include_buffers=False):
            make = encoder_class(config.vit_model)
            encoder = make(config.vit_model, config.image_size, **(config.vit_kwargs or {}))
            encoder.patches = config.patches
            self.encoder, self.bridge = encoder.module, _bridge(config, encoder)
            self.ln_vision = nn.LayerNorm(encoder.width)
        for module in self.modules():
            module._non_persistent_buffers_set.clear()
        object.__setattr__(self, "_encode", encoder.forward)  # not a second name for its tensors
        self.post_init()

    @classmethod
    def of(cls, vision: VisionTower, config: MiniGPTVisionConfig) -> "MiniGPTVisionTower":
        """The same tower, with the same tensors."""
        tower = cls(config)
        names = ("encoder.module.", "encoder.")
        state = {name.replace(*names): tensor for name, tensor in vision.named_parameters()}
        state |= {name.replace(*names): tensor for name, tensor in vision.named_buffers()}
        own = tower.state_dict()
        tower.load_state_dict({name: state[name] for name in own}, assign=True)
        return tower

    def forward(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """The arguments of other towers are not needed: there is one layer to choose."""
        tokens = self.bridge(self.ln_vision(self._encode(pixel_values.to(self.ln_vision.weight.dtype))))
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))


def _bridge(config: MiniGPTVisionConfig, encoder: BaseEncoder) -> Bridge:
    if config.has_qformer:
        qformer, queries = build_qformer(config.num_query_token, encoder.width, config.q_former_kwargs)
        return QFormerBridge(qformer, queries, frozen=False)
    return JoinedPatches(encoder.patches, encoder.width, config.patches_per_token, encoder.prefix_tokens)


AutoConfig.register(MiniGPTVisionConfig.model_type, MiniGPTVisionConfig)
AutoModel.register(MiniGPTVisionConfig, MiniGPTVisionTower)

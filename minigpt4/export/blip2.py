"""A MiniGPT-4 with EVA-ViT-g and a Q-Former as `Blip2ForConditionalGeneration`."""

from typing import Any

import torch
from transformers import Blip2Config, Blip2QFormerConfig, Blip2VisionConfig, PreTrainedConfig

from minigpt4.common.errors import ConfigError
from minigpt4.export.parts import LANGUAGE, PROJECTION, QFORMER, VISION, Part, Tensors
from minigpt4.models.encoders.eva_clip_g import EvaClipG
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.qformer import QFormerBridge
from minigpt4.models.stock_names import to_blip2
from minigpt4.models.vision_tower import VisionTower

CLASS = "Blip2ForConditionalGeneration"


def fits(vision: VisionTower) -> bool:
    """Whether there is a place for every tensor of a vision tower."""
    return isinstance(vision.encoder, EvaClipG) and isinstance(vision.bridge, QFormerBridge)


def config_of(vision: VisionTower, text: PreTrainedConfig, image_token: int) -> Blip2Config:
    """The whole model's config.

    Raises:
        ConfigError: for a vision tower that is not BLIP-2's.
    """
    encoder, bridge = vision.encoder, vision.bridge
    if not (isinstance(encoder, EvaClipG) and isinstance(bridge, QFormerBridge)):
        raise ConfigError(
            "--format blip2 is for models with eva_clip_g and a Q-Former; please take --format llava"
        )
    eva: Any = encoder.module
    block = eva.blocks[0]
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=encoder.width,
            intermediate_size=block.mlp.fc1.out_features,
            num_hidden_layers=len(eva.blocks),
            num_attention_heads=block.attn.num_heads,
            image_size=vision.image_size,
            patch_size=eva.patch_embed.patch_size[0],
            # `post_layernorm` shares it, where the original's `ln_vision` has 1e-5.
            layer_norm_eps=1e-6,
        ),
        qformer_config=Blip2QFormerConfig(**bridge.Qformer.config.to_diff_dict()),
        text_config=text,
        num_query_tokens=bridge.count,
        image_token_index=image_token,
    )
    config.tie_word_embeddings = text.tie_word_embeddings
    config.architectures = [CLASS]
    return config


def parts_of(model: MiniGPTBase, language: Tensors) -> list[Part]:
    """All tensors, part by part.

    Args:
        model: of which the vision tower and the projection are taken.
        language: the tensors of the causal language model.
    """
    vision: Any = model.vision
    bridge = vision.bridge
    norm = {f"vision_model.post_layernorm.{name}": one for name, one in vision.ln_vision.state_dict().items()}
    qformer = {f"qformer.{name}": one for name, one in bridge.Qformer.state_dict().items()}
    projection = {f"language_projection.{name}": one for name, one in model.projection.state_dict().items()}
    return [
        Part(VISION, to_blip2(dict(vision.encoder.module.named_parameters()))),
        Part(QFORMER, {**qformer, "query_tokens": bridge.query_tokens, **norm}, torch.float32),
        Part(PROJECTION, projection, torch.float32),
        Part(LANGUAGE, {f"language_model.{name}": one for name, one in language.items()}),
    ]

"""Any model as `LlavaForConditionalGeneration`: its vision tower is a stock one, or `MiniGPTVisionTower`."""

import logging
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from transformers import LlavaConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from minigpt4.common.errors import ConfigError
from minigpt4.export import clip
from minigpt4.export.parts import LANGUAGE, PROJECTION, QFORMER, VISION, Part, Tensors
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.library_check import sentence_ids
from minigpt4.models.library_head import decoder_of, place_of
from minigpt4.models.llava_tower import MiniGPTVisionConfig, MiniGPTVisionTower
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.qformer import QFormerBridge
from minigpt4.models.settings import ModelSettings
from minigpt4.models.vision_tower import VisionTower

log = logging.getLogger(__name__)

CLASS = "LlavaForConditionalGeneration"


def config_of(
    vision: VisionTower, settings: ModelSettings, text: PreTrainedConfig, image_token: int
) -> LlavaConfig:
    """The whole model's config.

    Raises:
        ConfigError: for an encoder that is a class outside the package.
    """
    try:
        tower = clip.config_of(vision, cast(torch.dtype, text.dtype))
        strategy = "default" if vision.encoder.prefix_tokens else "full"  # without the class token, or all
    except clip.NotStock as why:
        log.info("the vision tower is minigpt4.models.llava_tower, which has to be imported: %s", why)
        tower, strategy = _own_config(vision, settings), "full"
    config = LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        image_seq_length=vision.token_shape.count,
        projector_hidden_act="linear",
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
        tie_word_embeddings=text.tie_word_embeddings,
    )
    config.architectures = [CLASS]
    return config


def is_stock(config: PreTrainedConfig) -> bool:
    """Whether a whole model's config needs nothing of this package."""
    return not isinstance(getattr(config, "vision_config", None), MiniGPTVisionConfig)


def parts_of(model: MiniGPTBase, language: Tensors, config: LlavaConfig) -> list[Part]:
    """All tensors, part by part.

    Raises:
        ConfigError: for a language model that is more than a decoder and a matrix.
    """
    vision = cast(VisionTower, model.vision)
    if is_stock(config):
        encoder, bridge = clip.tower_tensors(vision), clip.norm_tensors(vision)
        projector = clip.projector(vision, model.projection)
    else:
        encoder, bridge = _own_tower(vision, cast(MiniGPTVisionConfig, config.vision_config))
        # LLaVA's projector has two layers; the second becomes the identity.
        width = len(model.projection.weight)
        projector = {f"linear_1.{name}": tensor for name, tensor in model.projection.state_dict().items()}
        projector |= {"linear_2.weight": torch.eye(width), "linear_2.bias": torch.zeros(width)}
    projection = {f"model.multi_modal_projector.{name}": tensor for name, tensor in projector.items()}
    if isinstance(vision.bridge, QFormerBridge):
        parts = [Part(QFORMER, bridge, torch.float32), Part(PROJECTION, projection, torch.float32)]
    else:
        parts = [Part(PROJECTION, bridge | projection, torch.float32)]
    return [Part(VISION, encoder), *parts, Part(LANGUAGE, _renamed(language, model.language))]


def _own_config(vision: VisionTower, settings: ModelSettings) -> MiniGPTVisionConfig:
    if ":" in settings.vit_model:
        raise ConfigError(
            f"model.vit_model is {settings.vit_model}, a class of yours: only registered encoders and timm's "
            "can be exported"
        )
    return MiniGPTVisionConfig(
        hidden_size=vision.token_shape.width,
        patches=vision.encoder.patches,
        image_size=settings.image_size,
        vit_model=settings.vit_model,
        vit_kwargs=settings.vit_kwargs,
        patches_per_token=settings.patches_per_token,
        has_qformer=settings.has_qformer,
        q_former_kwargs=asdict(settings.q_former_kwargs),
        num_query_token=settings.num_query_token,
    )


def _own_tower(vision: VisionTower, config: MiniGPTVisionConfig) -> tuple[dict[str, torch.Tensor], ...]:
    """The tensors of the encoder, and those behind it."""
    encoder, bridge = {}, {}
    for name, tensor in MiniGPTVisionTower.of(vision, config).state_dict().items():
        part = bridge if name.startswith(("ln_vision.", "bridge.")) else encoder
        part[f"model.vision_tower.{name}"] = tensor
    return encoder, bridge


def _renamed(tensors: Tensors, language: LanguageModel) -> Tensors:
    """The names of a causal language model -> LLaVA's."""
    decoder, head = decoder_of(language.model), language.model.get_output_embeddings()
    parent, name = place_of(decoder, language.model)
    plain = isinstance(head, nn.Linear) and head.bias is None and parent is language.model
    if not (plain and isinstance(decoder, _decoder_class(language)) and _is_product(language, head)):
        raise ConfigError(
            f"--format llava: {language.name} is more than a decoder and a matrix: LLaVA cannot hold "
            "that; --format blip2 can, with eva_clip_g and a Q-Former"
        )
    inside = f"{name}."
    return {
        f"model.language_model.{key.removeprefix(inside)}" if key.startswith(inside) else key: tensor
        for key, tensor in tensors.items()
    }


def _decoder_class(language: LanguageModel) -> type[nn.Module]:
    """What LLaVA would build of the language model's config."""
    return cast(type[nn.Module], MODEL_MAPPING.get(type(language.config), type(None)))


@torch.no_grad()
def _is_product(language: LanguageModel, head: Any) -> bool:
    """Whether logits are a product with the head's matrix, and nothing caps or scales them afterwards."""
    ids = sentence_ids(language)
    hidden = decoder_of(language.model)(inputs_embeds=language.embed(ids)[None], use_cache=False)
    logits = language.logits(language.embed(ids)[None], torch.arange(len(ids)))
    return torch.allclose(head(hidden.last_hidden_state)[0].float(), logits, rtol=1e-2, atol=1e-2)

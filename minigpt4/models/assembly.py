"""From the settings of `model:` to the parts of a model. Nothing below this reads settings."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from minigpt4.common.device import dtype_for, room_for_weights
from minigpt4.common.errors import ConfigError, reading
from minigpt4.models.bridges import JoinedPatches
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.encoders.build import build_encoder, published_weights
from minigpt4.models.execution import compile_blocks, recompute_blocks
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.library_check import check_language_model
from minigpt4.models.llm_loading import load_language_model
from minigpt4.models.lora import PEFT_PREFIX, Lora
from minigpt4.models.lora_folder import WEIGHTS
from minigpt4.models.qformer import QFormerBridge, build_qformer, load_blip2
from minigpt4.models.settings import RANDOM, ModelSettings
from minigpt4.models.stock_names import from_stock
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.prompts.requests import read_requests
from minigpt4.prompts.templates import PromptTemplate
from minigpt4.weights.locations import BLIP2_URL
from minigpt4.weights.resolver import WeightSource, locate, read_tensors, resolve_file, resolve_model

log = logging.getLogger(__name__)


def vision_sources(settings: ModelSettings) -> list[WeightSource]:
    """The files that the encoder and the Q-Former need."""
    sources = []
    if settings.vit_weights != RANDOM:
        weights = settings.vit_weights
        weights = published_weights(settings.vit_model) if weights is None else weights
        sources.append(WeightSource("model.vit_weights", weights, "file"))
    if settings.has_qformer and settings.q_former_model != RANDOM:
        sources.append(WeightSource("model.q_former_model", _blip2(settings), "file"))
    return sources


def _blip2(settings: ModelSettings) -> str:
    return BLIP2_URL if settings.q_former_model is None else settings.q_former_model


def weight_sources(settings: ModelSettings) -> list[WeightSource]:
    """All files and folders that a model needs."""
    language_model = WeightSource("model.llama_model", settings.llama_model, "model")
    ckpt = [WeightSource("model.ckpt", settings.ckpt, "file")] if settings.ckpt else []
    adapter = []
    if settings.lora_adapter:
        adapter = [WeightSource("model.lora_adapter", f"{settings.lora_adapter}/{WEIGHTS}", "file")]
    return [*vision_sources(settings), language_model, *adapter, *ckpt]


def parts_from_files(settings: ModelSettings) -> tuple[str, ...]:
    """Beginnings of the checkpoint keys whose tensors come from these sources, should `ckpt` lack them."""
    beginnings = {
        "model.vit_weights": ("visual_encoder.", "ln_vision."),
        "model.q_former_model": ("Qformer.", "query_tokens"),
        "model.llama_model": (f"llama_model.{PEFT_PREFIX}" if settings.lora_r else "llama_model.",),
    }
    return tuple(name for source in weight_sources(settings) for name in beginnings.get(source.key, ()))


def find_sources(settings: ModelSettings) -> Path | None:
    """Check that all sources can be found before anything is fetched or read; return the place of `ckpt`.

    Raises:
        ConfigError: naming what is mistyped.
    """
    for source in weight_sources(settings):
        locate(source)
    return resolve_file(settings.ckpt, "model.ckpt") if settings.ckpt else None


class Parts(NamedTuple):
    """What a model is composed of."""

    vision: VisionTower | CachedVision
    language: LanguageModel
    projection: nn.Linear
    prompts: PromptEncoder


def build_parts(settings: ModelSettings, device: torch.device, features: TokenShape | None) -> Parts:
    """All parts with their weights; the projection is untrained.

    Args:
        settings: of the model.
        device: where they go.
        features: where the image tokens come from a cache: their shape. No encoder is built then.
    """
    requests = read_requests(settings.prompt_path or "")
    with room_for_weights(device):
        vision = cached_vision(settings, features) if features else build_vision(settings, device)
        language = build_language(settings, device)
    prompts = build_prompts(settings, requests, language, vision.token_shape.count)
    projection = nn.Linear(vision.token_shape.width, language.width).to(device)
    return Parts(vision, language, projection, prompts)


def build_vision(settings: ModelSettings, device: torch.device) -> VisionTower:
    """The vision tower with its weights.

    Raises:
        ConfigError: naming the key that cannot be used.
        CheckpointError: for weights that do not fit.
    """
    frozen_dtype = dtype_for(settings.vit_precision, device, "model.vit_precision")
    encoder = build_encoder(
        settings.vit_model,
        settings.image_size,
        weights=settings.vit_weights,
        kwargs=settings.vit_kwargs,
        drop_path_rate=settings.drop_path_rate,
        attention=settings.attn_implementation,
        dtype=frozen_dtype if settings.freeze_vit else torch.float32,
        device=device,
    )
    bridge = _build_bridge(settings, encoder)
    tower = VisionTower(
        encoder,
        bridge,
        image_size=settings.image_size,
        frozen=settings.freeze_vit,
        tokens=settings.tokens_per_frame,
    )
    if isinstance(bridge, QFormerBridge):
        dtype = frozen_dtype if bridge.frozen else torch.float32
        if settings.q_former_model != RANDOM:
            path = resolve_file(_blip2(settings), "model.q_former_model")
            with reading(path, failed="model.q_former_model: {} does not fit the Q-Former"):
                tensors = from_stock(read_tensors(path, mapped=True))
                load_blip2(tower, tensors, source=str(path), dtype=dtype, device=device)
        bridge.settle(device, dtype)
    if settings.compile:
        compile_blocks([*encoder.blocks(), *bridge.blocks()], device)
    if settings.use_grad_checkpoint and not settings.freeze_vit:
        recompute_blocks(encoder.blocks(), random=True)
    return tower


def _build_bridge(settings: ModelSettings, encoder: BaseEncoder) -> QFormerBridge | JoinedPatches:
    if not settings.has_qformer:
        return JoinedPatches(
            encoder.patches, encoder.width, settings.patches_per_token, encoder.prefix_tokens
        )
    keys = "model.q_former_kwargs, model.num_query_token"
    with reading(keys, ConfigError, failed="{}: no Q-Former can be built of these"):
        qformer, queries = build_qformer(
            settings.num_query_token,
            encoder.width,
            asdict(settings.q_former_kwargs),
            empty=settings.q_former_model != RANDOM,
        )
    return QFormerBridge(qformer, queries, frozen=settings.freeze_qformer)


def cached_vision(settings: ModelSettings, features: TokenShape) -> CachedVision:
    """What stands in for the tower where its tokens were cached."""
    return CachedVision(features, name=settings.vit_model, image_size=settings.image_size)


def build_language(settings: ModelSettings, device: torch.device) -> LanguageModel:
    """The language model with its weights.

    Raises:
        ConfigError: naming the key that cannot be used.
    """
    name = str(settings.llama_model)
    language = load_language_model(
        resolve_model(settings.llama_model, "model.llama_model"),
        name=name.rstrip("/").rsplit("/", 1)[-1],
        backbone=settings.llm_backbone,
        precision="8bit" if settings.low_resource else settings.llm_precision,
        trainable="full" if settings.llm_trainable == "full" else "frozen",
        lora=lora_of(settings),
        device=device,
        attention=settings.attn_implementation,
        device_map=settings.device_map,
    )
    check_language_model(language, name, english=settings.llm_sanity_check)
    if settings.compile:
        language.compile_layers()
    if settings.llm_grad_checkpoint or settings.use_grad_checkpoint_llm:
        language.recompute_layers()
    return language


def lora_of(settings: ModelSettings) -> Lora | None:
    """The language model's adapter, if it has one."""
    if not settings.lora_r:
        return None
    named = settings.lora_target_modules
    targets = named if isinstance(named, str) else tuple(named)
    return Lora(settings.lora_r, settings.lora_alpha, settings.lora_dropout, targets)


def build_prompts(
    settings: ModelSettings, requests: list[str], language: LanguageModel, image_tokens: int
) -> PromptEncoder:
    """How dialogues become ids: turns as the language model's family or the YAML writes them.

    Prompts are limited so that prompt and answer fit into the language model's context.

    Raises:
        ConfigError: if the longest request and a caption of `max_txt_len` do not fit.
    """
    template = language.backbone.template.with_overrides(settings.prompt_template, settings.end_sym)
    if settings.prompt_template:
        _warn_of_other_marks(template, language)
    if language.backbone.bos_id is None and not requests:
        log.warning(
            "%s has no BOS, so a caption's picture is the first that it reads, and a first token is hardly "
            "attended to: for captions, please set model.prompt_path (pkg://minigpt4/prompts/caption.txt)",
            language.name,
        )
    prompts = PromptEncoder(
        language.tokenizer,
        language.backbone.bos_id,
        image_tokens,
        template,
        settings.max_txt_len,
        settings.max_context_len,
        requests,
        language.config.vocab_size,
    )
    if language.positions is not None:
        _check_lengths(prompts, language.positions)
        prompts.max_context_len = min(prompts.max_context_len, language.positions - prompts.max_txt_len)
    return prompts


def _warn_of_other_marks(template: PromptTemplate, language: LanguageModel) -> None:
    taught = language.backbone.taught_marks()  # may start a process, to render a chat template
    if taught not in (None, template.marks):
        log.warning(
            "model.prompt_template writes turns as %r, but %s was taught %r: leave prompt_template out, "
            "unless the checkpoint was trained with it",
            "...".join(template.marks),
            language.name,
            "...".join(taught),
        )


def _check_lengths(prompts: PromptEncoder, positions: int) -> None:
    """Raise ConfigError if the longest request and a caption do not fit into the context."""
    longest = max(len(prompts.ids(Dialogue((request,)))[0]) for request in prompts.requests)
    tokens = longest + prompts.max_txt_len
    if tokens > positions:
        raise ConfigError(
            f"model.max_txt_len is {prompts.max_txt_len}, so with the longest prompt of model.prompt_path "
            f"and {prompts.image_tokens} tokens per image a sample has {tokens} tokens, but the language "
            f"model was made for {positions} (max_position_embeddings)"
        )

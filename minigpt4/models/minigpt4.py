"""MiniGPT-4 (Zhu et al. 2023, arXiv:2304.10592): encoder, Q-Former, one linear layer, language model."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from minigpt4.common.device import pick_device, room_for_weights
from minigpt4.common.registry import registry
from minigpt4.models import assembly
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.settings import MINIGPT4_TYPES, ModelSettings
from minigpt4.prompts.requests import read_requests
from minigpt4.weights.resolver import WeightSource, locate, resolve_file


@registry.register_model("minigpt4")
class MiniGPT4(MiniGPTBase):
    """Of all this, stage 1 trains `llama_proj` alone."""

    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = MINIGPT4_TYPES  # the original's name for them

    @classmethod
    def from_config(
        cls,
        cfg: Mapping[str, Any] | ModelSettings,
        device: str | torch.device | None = None,
        features: TokenShape | None = None,
    ) -> "MiniGPT4":
        """Build from a YAML's `model:` section and load its `ckpt`, if it names one.

        Args:
            cfg: the section; what it leaves out comes from the defaults of its `model_type`, if it has one.
            device: where the model goes; None takes the GPU of `device_8bit`, or the best there is.
            features: where the image tokens come from a cache: their shape. No encoder is built then.

        Raises:
            ConfigError: for unknown keys, placeholders and paths that do not exist.
            CheckpointError: for weights that do not fit.
        """
        settings = cls.settings(cfg)
        if device is None and settings.device_8bit is not None and torch.cuda.is_available():
            device = f"cuda:{settings.device_8bit}"
        device = pick_device(device)
        for source in assembly.weight_sources(settings):
            locate(source)  # whatever is mistyped is told before anything is fetched or read
        requests = read_requests(settings.prompt_path or "")
        ckpt = resolve_file(settings.ckpt, "model.ckpt") if settings.ckpt else None
        with room_for_weights(device):
            vision = (
                assembly.cached_vision(settings, features)
                if features
                else assembly.build_vision(settings, device)
            )
            language = assembly.build_language(settings, device)
        prompts = assembly.build_prompts(settings, requests, language, vision.token_shape.count)
        projection = nn.Linear(vision.token_shape.width, language.width).to(device)
        model = cls(vision, language, projection, prompts)
        if ckpt is not None:
            model.load_checkpoint(
                ckpt,
                allow_missing=assembly.parts_from_files(settings),
                allow_mismatch=settings.ckpt_allow_mismatch,
                embedding_convention=settings.ckpt_embedding_convention,
            )
        return model

    @classmethod
    def weight_sources(cls, cfg: Mapping[str, Any] | ModelSettings) -> list[WeightSource]:
        """The files and folders that a `model:` section needs, defaults included."""
        return assembly.weight_sources(cls.settings(cfg))

"""MiniGPT-4 (Zhu et al. 2023, arXiv:2304.10592): encoder, Q-Former, one linear layer, language model."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from minigpt4.common.registry import registry
from minigpt4.models.encoders.timm_models import EVA_CLIP_G
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.vision_tower import TokenShape
from minigpt4.weights.locations import BLIP2_URL
from minigpt4.weights.resolver import WeightSource


@registry.register_model("minigpt4")
class MiniGPT4(MiniGPTBase):
    """Of all this, stage 1 trains `llama_proj` alone.

    The arguments are those of ImageTokens and of MiniGPTBase. Four patches make one token where there is
    no Q-Former, as in the original.
    """

    PRETRAINED_MODEL_CONFIG_DICT: ClassVar[dict[str, str]] = {
        "pretrain_vicuna0": "models/minigpt4_vicuna0.yaml",
        "pretrain_llama2": "models/minigpt4_llama2.yaml",
        "pretrain_gemma": "models/minigpt4_gemma.yaml",
        "pretrain_auto": "models/minigpt4_auto.yaml",
        "tiny_llama": "models/minigpt4_tiny_llama.yaml",
        "tiny_gemma": "models/minigpt4_tiny_gemma.yaml",
        "smollm2": "models/minigpt4_smollm2.yaml",
        "gemma3_270m": "models/minigpt4_gemma3_270m.yaml",
    }
    DEFAULT_MODEL_TYPE = "pretrain_vicuna0"

    def __init__(
        self,
        vit_model: str = EVA_CLIP_G,
        q_former_model: str | None = BLIP2_URL,
        image_size: int = 224,
        drop_path_rate: float = 0.0,
        use_grad_checkpoint: bool = False,
        vit_precision: str = "fp16",
        freeze_vit: bool = True,
        has_qformer: bool = True,
        freeze_qformer: bool = True,
        num_query_token: int = 32,
        llama_model: str = "",
        prompt_path: str = "",
        prompt_template: str | None = None,
        max_txt_len: int = 32,
        max_context_len: int = 3800,
        end_sym: str | None = None,
        low_resource: bool = False,
        vit_weights: str | None = None,
        vit_kwargs: dict[str, Any] | None = None,
        q_former_kwargs: dict[str, Any] | None = None,
        patches_per_token: int = 4,
        llm_backbone: str = "auto",
        llm_precision: str = "bf16",
        llm_sanity_check: bool = True,
        llm_grad_checkpoint: bool = False,
        compile: bool = False,
        attn_implementation: str | None = None,
        device_map: str | None = None,
        features: TokenShape | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        super().__init__(
            vision={
                "vit_model": vit_model,
                "vit_weights": vit_weights,
                "vit_kwargs": vit_kwargs,
                "vit_precision": vit_precision,
                "image_size": image_size,
                "drop_path_rate": drop_path_rate,
                "use_grad_checkpoint": use_grad_checkpoint,
                "freeze_vit": freeze_vit,
                "has_qformer": has_qformer,
                "q_former_model": q_former_model,
                "q_former_kwargs": q_former_kwargs,
                "freeze_qformer": freeze_qformer,
                "num_query_token": num_query_token,
                "patches_per_token": patches_per_token,
                "compile": compile,
                "features": features,
                "device": device,
            },
            llama_model=llama_model,
            llm_backbone=llm_backbone,
            llm_precision=llm_precision,
            low_resource=low_resource,
            prompt_path=prompt_path,
            prompt_template=prompt_template,
            end_sym=end_sym,
            max_txt_len=max_txt_len,
            max_context_len=max_context_len,
            llm_sanity_check=llm_sanity_check,
            llm_grad_checkpoint=llm_grad_checkpoint,
            attn_implementation=attn_implementation,
            device_map=device_map,
        )

    @classmethod
    def weight_sources(cls, cfg: Mapping) -> list[WeightSource]:
        language_model = WeightSource("model.llama_model", cfg.get("llama_model"), "model")
        return [*cls.vision_sources(cfg), language_model, *super().weight_sources(cfg)]

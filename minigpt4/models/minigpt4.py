"""MiniGPT-4 (Zhu et al. 2023, arXiv:2304.10592): encoder, Q-Former, one linear layer, language model."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from minigpt4.common.errors import ConfigError
from minigpt4.common.places import BLIP2_URL
from minigpt4.common.registry import registry
from minigpt4.common.weights import WeightSource, read_tensors, resolve_file
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.qformer import build_qformer, load_blip2, to_original_key
from minigpt4.models.vision import EVA_CLIP_G, published_weights, visual_tokens


@registry.register_model("minigpt4")
class MiniGPT4(MiniGPTBase):
    """Of all this, stage 1 trains `llama_proj` alone.

    Args (beside those of MiniGPTBase):
        has_qformer: False joins the encoder's tokens, `patches_per_token` in a row, instead.
        q_former_model: BLIP-2's file, with Q-Former, queries and `ln_vision`; None for random weights,
            which must be trained (`freeze_qformer: False`).
        q_former_kwargs: overrides of the Q-Former's sizes.
        freeze_qformer: whether Q-Former and queries stay as they are.
        num_query_token: tokens an image becomes.
        patches_per_token: without Q-Former, how many neighbours in raster order make one token; 4 as in
            the original.
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
        attn_implementation: str | None = None,
        device_map: str | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        q_former_path = None
        if has_qformer and q_former_model is not None:
            q_former_path = resolve_file(q_former_model, "model.q_former_model")
        elif has_qformer and freeze_qformer:
            raise ConfigError(
                "model.q_former_model is null, so the Q-Former begins with random weights, but "
                "model.freeze_qformer is True: please name BLIP-2's file, or train it"
            )
        super().__init__(
            vit_model=vit_model,
            vit_weights=vit_weights,
            vit_kwargs=vit_kwargs,
            vit_precision=vit_precision,
            image_size=image_size,
            drop_path_rate=drop_path_rate,
            use_grad_checkpoint=use_grad_checkpoint,
            freeze_vit=freeze_vit,
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
            attn_implementation=attn_implementation,
            device_map=device_map,
            device=device,
        )
        self.has_qformer = has_qformer
        self.patches_per_token = patches_per_token
        vision_width = self.visual_encoder.num_features
        if has_qformer:
            self.Qformer, self.query_tokens = build_qformer(
                num_query_token, vision_width, q_former_kwargs, empty=q_former_path is not None
            )
            if q_former_path is not None:
                dtype = self.vit_dtype if freeze_qformer else torch.float32
                tensors = read_tensors(q_former_path, mapped=True)
                load_blip2(self, tensors, source=str(q_former_path), dtype=dtype, device=self._target_device)
                self.loaded_elsewhere += ("Qformer.", "query_tokens")
            if freeze_qformer:
                self.freeze(self.Qformer)
                self.query_tokens.requires_grad_(False)
            image_tokens, width = num_query_token, self.query_tokens.shape[-1]
        else:
            image_tokens = self._count_joined_tokens()
            width = vision_width * patches_per_token
        self.llama_proj = nn.Linear(width, self.llama_model.config.get_text_config().hidden_size)
        self._finish(image_tokens)

    @torch.no_grad()
    def _count_joined_tokens(self) -> int:
        """How many tokens an image becomes without Q-Former; found by looking at an empty one."""
        first = next(self.visual_encoder.parameters())
        image = torch.zeros(1, 3, self.image_size, self.image_size, dtype=first.dtype, device=first.device)
        patches = self._patches(self.visual_encoder, image).shape[1]
        if patches % self.patches_per_token:
            raise ConfigError(
                f"model.patches_per_token is {self.patches_per_token}, which does not divide the encoder's "
                f"{patches} tokens"
            )
        return patches // self.patches_per_token

    @staticmethod
    def _patches(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
        """The encoder's tokens without the class token."""
        return visual_tokens(encoder, image)[:, getattr(encoder, "num_prefix_tokens", 0) :]

    def encode_img(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] (uint8, or normalised floats) -> embeddings [N, P, D] and their mask [N, P].

        The projection computes in its own dtype (float32 in training) whatever autocast says: it costs
        next to nothing, and its gradient is exact.
        """
        image = self._normalized(image)
        with self.own_precision(self.visual_encoder):
            if self.has_qformer:
                vision = self.ln_vision(visual_tokens(self.visual_encoder, image))
            else:
                patches = self.ln_vision(self._patches(self.visual_encoder, image))
                count, number, width = patches.shape
                tokens = patches.reshape(
                    count, number // self.patches_per_token, width * self.patches_per_token
                )
        if self.has_qformer:
            with self.own_precision(self.Qformer):
                tokens = self._query(vision)
        with torch.autocast(self.device.type, enabled=False):
            embeds = self.llama_proj(tokens.to(self.llama_proj.weight.dtype))
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)

    def _query(self, vision: torch.Tensor) -> torch.Tensor:
        """Encoder tokens [N, patches, width] -> query tokens [N, P, hidden]."""
        dtype = self.Qformer.layernorm.weight.dtype
        queries = self.query_tokens.to(dtype).expand(len(vision), -1, -1)
        return self.Qformer(query_embeds=queries, encoder_hidden_states=vision.to(dtype)).last_hidden_state

    def checkpoint_key(self, name: str) -> str:
        return to_original_key(name)

    @classmethod
    def weight_sources(cls, cfg: Mapping) -> list[WeightSource]:
        vit_weights = cfg.get("vit_weights") or published_weights(cfg.get("vit_model", EVA_CLIP_G))
        blip2 = cfg.get("q_former_model", BLIP2_URL)
        sources = [WeightSource("model.vit_weights", vit_weights, "file")]
        if cfg.get("has_qformer", True) and blip2 is not None:
            sources.append(WeightSource("model.q_former_model", blip2, "file"))
        sources.append(WeightSource("model.llama_model", cfg.get("llama_model"), "model"))
        return sources + super().weight_sources(cfg)

"""Images into text: what MiniGPT-4 and MiniGPT-v2 share.

Shapes: B batch, N images of the whole batch, P tokens per image, T text and image tokens, D width of the
language model, V its vocabulary.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from minigpt4.common.device import pick_device
from minigpt4.common.errors import CheckpointError, DataError, reading
from minigpt4.models import assembly
from minigpt4.models.answering import Answering, check_image_count
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.models.base_model import BaseModel
from minigpt4.models.identity import describe, find_mismatch
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.lora_folder import read_adapter
from minigpt4.models.original_names import OriginalNames
from minigpt4.models.saved_lora import is_lora, other_lora
from minigpt4.models.settings import TABLE_ROW, ModelSettings
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from minigpt4.prompts.sample import Batch
from minigpt4.prompts.templates import PromptTemplate
from minigpt4.weights.checkpoint import load_into, require_keys
from minigpt4.weights.resolver import WeightSource

M = TypeVar("M", bound="MiniGPTBase")

log = logging.getLogger(__name__)


class MiniGPTBase(Answering, OriginalNames, BaseModel):
    """A vision tower and a language model, joined by a projection.

    Args:
        vision: makes image tokens [N, P, width] of pictures.
        language: reads embeddings.
        projection: image tokens -> embeddings, Linear(width, D).
        prompts: how dialogues become ids.
        chat_template: whether `instruction_input` of data sets written for the original is a request, which
            the template wraps, and not a whole prompt.
    """

    def __init__(
        self,
        vision: VisionTower | CachedVision,
        language: LanguageModel,
        projection: nn.Linear,
        prompts: PromptEncoder,
        *,
        chat_template: bool = False,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.language = language
        self.projection = projection
        self.prompts = prompts
        self.chat_template = chat_template
        self.stop_ids = self.backbone.end_ids(language.model.generation_config, self.template.end)

    @classmethod
    def from_config(
        cls: type[M],
        cfg: Mapping[str, Any] | ModelSettings,
        device: str | torch.device | None = None,
        features: TokenShape | None = None,
    ) -> M:
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
        ckpt = assembly.find_sources(settings)
        parts = assembly.build_parts(settings, pick_device(device), features)
        model = cls(*parts, chat_template=settings.chat_template)
        if settings.lora_adapter:
            model.load_adapter(Path(settings.lora_adapter))
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
        return assembly.weight_sources(cls.settings(cfg))

    @property
    def device(self) -> torch.device:
        return self.projection.weight.device

    @property
    def backbone(self) -> BaseBackbone:
        """The family of the language model."""
        return self.language.backbone

    @property
    def template(self) -> PromptTemplate:
        """How turns are written."""
        return self.prompts.template

    @property
    def token_shape(self) -> TokenShape:
        return self.vision.token_shape

    @property
    def image_size(self) -> int:
        return self.vision.image_size

    @property
    def prompt_list(self) -> list[str]:
        """The requests for captions as turns; none where captions answer the bare image."""
        return [self.template.turn(turn.text) for turn in self.prompts.requests if not turn.verbatim]

    def forward(self, samples: Batch | Mapping[str, Any], reduction: str = "mean") -> dict[str, torch.Tensor]:
        """The loss of a batch.

        Args:
            samples: a batch, or the original's dict (see `Batch.from_mapping`). What `prepare` has prepared
                is not prepared again.
            reduction: `mean` or `sum` over target tokens; `none` for one loss per sample, averaged over the
                padded length of the batch as the original does.
        """
        losses, tokens = self.token_losses(samples)
        if reduction != "none":
            return {"loss": losses.mean() if reduction == "mean" else losses.sum()}
        batch, length = tokens.ids.shape
        sums = losses.new_zeros(batch).index_add(0, tokens.target_row, losses)
        return {"loss": sums / (length - 1)}

    def token_losses(self, samples: Batch | Mapping[str, Any]) -> tuple[torch.Tensor, TokenBatch]:
        """Cross entropy of every target token: [targets] in float32, and the batch they belong to.

        Args:
            samples: as for `forward`.
        """
        batch = samples if isinstance(samples, Batch) and samples.tokens else self.prepare(samples)
        assert batch.tokens is not None
        tokens = batch.tokens.to(self.device)
        # Without images, the projection gets no tokens, so that its gradient is zero, not missing.
        if batch.images is None:
            seen = torch.empty(0, 1, self.token_shape.width, device=self.device)
        else:
            seen = self.vision(batch.images)
        embeds = self.embed(tokens, self.project(seen))
        return self.language.token_losses(embeds, tokens), tokens

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens [N, P, width] -> embeddings [N, P, D].

        The projection computes in its own dtype (float32 in training) whatever autocast says: it costs
        next to nothing, and its gradient is exact.
        """
        with torch.autocast(self.device.type, enabled=False):
            weight = self.projection.weight
            return self.projection(tokens.to(weight.device, weight.dtype, non_blocking=True))

    def embed(self, tokens: TokenBatch, images: torch.Tensor | None) -> torch.Tensor:
        """Text embeddings with image embeddings [N, P, D] in their places -> [B, T, D]."""
        embeds = self.language.embed(tokens.ids)
        if images is not None:
            # In place: what the first layer gets is a tensor of its own, as the other layers get, and not a
            # view, for which torch would compile once more.
            images = images.reshape(-1, embeds.shape[-1]).to(embeds.dtype)
            embeds.view(-1, embeds.shape[-1]).index_copy_(0, tokens.image_index, images)
        return embeds

    def prepare(self, samples: Batch | Mapping[str, Any], *, evaluation: bool = False) -> Batch:
        """The host's share of a step: put the requests of captions, tokenise, check the images' places.

        Args:
            samples: a batch, or the original's dict (see `Batch.from_mapping`).
            evaluation: put the first request instead of one that is drawn, and ask for the last answer of
                each dialogue instead of all.

        Returns:
            The same, with `tokens` on the CPU. Nothing after this asks the device for a value.
        """
        batch = samples if isinstance(samples, Batch) else Batch.from_mapping(samples)
        request = self.prompts.requests[0] if evaluation else self.prompts.draw_request()
        dialogues = [dialogue.requested(request) for dialogue in self._in_template(batch.dialogues)]
        for dialogue, count in zip(dialogues, batch.image_counts, strict=True):
            check_image_count(dialogue, count)
        tokens = self.prompts.encode(dialogues, learn_all=not evaluation)
        if not tokens.targets:
            raise DataError("a batch without target tokens: all answers are empty or missing")
        return replace(batch, dialogues=dialogues, tokens=tokens)

    def _in_template(self, dialogues: list[Dialogue]) -> list[Dialogue]:
        """With `chat_template`, whole prompts as requests."""
        return [dialogue.in_template() for dialogue in dialogues] if self.chat_template else dialogues

    def image_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] (uint8, or normalised floats) -> tokens [N, P, width], before the projection."""
        return self.vision(images)

    def encode_img(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] (uint8, or normalised floats) -> embeddings [N, P, D] and their mask [N, P]."""
        embeds = self.project(self.vision(image))
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)

    def to_pixels(self, image: torch.Tensor) -> np.ndarray:
        """[3, H, W], uint8 or normalised -> uint8 array [H, W, 3], for a person to look at."""
        return self.vision.to_pixels(image)

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., T] -> [..., T, D] as the first layer sees them (Gemma's factor is in here)."""
        return self.language.embed(ids)

    def part_to_shard(self) -> PreTrainedModel | None:
        return self.language.model if self.language.sharded else None

    def checkpoint_meta(self) -> dict[str, Any]:
        return describe(self.vision, self.language, self.prompts)

    def find_mismatch(self, meta: Mapping[str, Any]) -> str | None:
        return find_mismatch(self.checkpoint_meta(), meta)

    def load_adapter(self, folder: Path) -> None:
        """Load a LoRA adapter from a folder of peft's.

        Raises:
            CheckpointError: if it does not fit this model's.
        """
        tensors, alpha = read_adapter(folder)
        own = {self.checkpoint_key(name): name for name, _ in self.named_parameters()}
        adapter = {key: own[key] for key in self.trainable_state_dict() if is_lora(key)}
        with reading(folder, failed="model.lora_adapter: {} is damaged"):
            unfit = other_lora(self.language.lora, tensors, alpha, adapter)
        if unfit:
            raise CheckpointError(f"model.lora_adapter: {folder} {unfit}")
        require_keys({*adapter}, tensors, source=str(folder))
        require_keys({*tensors}, adapter, source="the model's adapter")
        load_into(self, {adapter[key]: tensor for key, tensor in tensors.items()}, source=str(folder))

    def find_unfit(self, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> str | None:
        lora = self.language.lora
        if lora is not None and not any(map(is_lora, tensors)):
            log.warning("the checkpoint has no LoRA adapter: the model's own begins untrained")
        return other_lora(lora, tensors, meta.get("lora_alpha"), self.trainable_state_dict())

    def explain_shapes(self, tensors: Mapping[str, torch.Tensor]) -> str:
        weight, width = tensors.get("projection.weight"), self.token_shape.width
        if weight is None or weight.shape[-1:] in ((), (width,)):
            return ""
        return (
            f": it was trained on image tokens that are {weight.shape[-1]} wide, here they are {width} wide "
            "(model.has_qformer, model.patches_per_token; the Gemma fork's model_type is "
            "pretrain_gemma_noqformer here)"
        )

    def scales_embeddings(self) -> bool:
        return not math.isclose(self.language.embedding_factor, 1, rel_tol=0.01)

    def in_own_convention(self, tensors: dict[str, torch.Tensor], convention: str) -> dict[str, torch.Tensor]:
        """A projection into the embedding table's scale, times the factor that the model applied later."""
        if convention != TABLE_ROW:
            return tensors
        factor = self.language.embedding_factor
        log.info("the projection is multiplied by %g, the language model's embedding factor", factor)
        return {
            name: value * factor if name.startswith("projection.") else value
            for name, value in tensors.items()
        }

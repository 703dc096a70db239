"""Images into text: what MiniGPT-4 and MiniGPT-v2 share.

Shapes: B batch, N images of the whole batch, P tokens per image, T text and image tokens, D width of the
language model, V its vocabulary.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, StoppingCriteriaList

from minigpt4.common.errors import DataError
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.models.base_model import BaseModel
from minigpt4.models.identity import describe, find_mismatch
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.original_names import OriginalNames
from minigpt4.models.settings import TABLE_ROW
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from minigpt4.prompts.reply_end import StopAtText, read_reply
from minigpt4.prompts.sample import Batch
from minigpt4.prompts.templates import PromptTemplate

log = logging.getLogger(__name__)


class MiniGPTBase(OriginalNames, BaseModel):
    """A vision tower and a language model, joined by a projection.

    Args:
        vision: makes image tokens [N, P, width] of pictures.
        language: reads embeddings.
        projection: image tokens -> embeddings, Linear(width, D).
        prompts: how dialogues become ids.
    """

    def __init__(
        self,
        vision: VisionTower | CachedVision,
        language: LanguageModel,
        projection: nn.Linear,
        prompts: PromptEncoder,
    ) -> None:
        super().__init__()
        self.vision = vision
        self.language = language
        self.projection = projection
        self.prompts = prompts
        self.stop_ids = self.backbone.end_ids(language.model.generation_config, self.template.end)

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

    def get_context_emb(self, prompt: str | Dialogue, img_list: Sequence[torch.Tensor]) -> torch.Tensor:
        """A dialogue to go on with, and its images' embeddings [1, P, D] each -> [1, T, D].

        Args:
            prompt: a text is a whole prompt, with IMAGE_PLACEHOLDER where an image goes.
            img_list: in the order of their places.
        """
        dialogue = _as_dialogue(prompt)
        _check_image_count(dialogue, len(img_list))
        tokens = self.prompts.encode([dialogue]).to(self.device)
        return self.embed(tokens, torch.cat(list(img_list)) if img_list else None)

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
        dialogues = [dialogue.requested(request) for dialogue in batch.dialogues]
        for dialogue, count in zip(dialogues, batch.image_counts, strict=True):
            _check_image_count(dialogue, count)
        tokens = self.prompts.encode(dialogues, learn_all=not evaluation)
        if not tokens.targets:
            raise DataError("a batch without target tokens: all answers are empty or missing")
        return replace(batch, dialogues=dialogues, tokens=tokens)

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

    @property
    def end_text(self) -> str:
        """The end symbol that is searched for in the text of a reply, such as "###".

        "" if the end symbol is a token in `stop_ids`: spelled out, it does not end a reply.
        """
        end = self.template.end
        token = self.backbone.added_tokens.get(end)
        return "" if token in self.stop_ids else end

    def text_stops(self) -> StoppingCriteriaList:
        """What ends a reply beside `stop_ids`."""
        end = self.end_text
        return StoppingCriteriaList([StopAtText(self.language.tokenizer, end)] if end else [])

    @torch.no_grad()
    def generate(
        self,
        images: torch.Tensor | None,
        texts: Sequence[str | Dialogue],
        num_beams: int = 1,
        max_new_tokens: int = 20,
        min_length: int = 1,
        top_p: float = 0.9,
        repetition_penalty: float = 1.0,
        length_penalty: float = 1.0,
        temperature: float = 1.0,
        do_sample: bool = False,
    ) -> list[str]:
        """Answer a batch of prompts, each with its images.

        Args:
            images: [N, 3, H, W], or cached features [N, P, width], for all IMAGE_PLACEHOLDERs of `texts`
                in order; None without any.
            texts: dialogues to go on with, or whole prompts as `template.turn` writes them.

        Returns:
            One reply per prompt, without its end symbol and surrounding white space.
        """
        dialogues = [_as_dialogue(text) for text in texts]
        _check_image_count(dialogues, 0 if images is None else len(images))
        tokens = self.prompts.encode(dialogues, pad_left=True).to(self.device)
        embeds = None if images is None else self.project(self.vision(images))
        sampling = {"top_p": float(top_p), "temperature": float(temperature)} if do_sample else {}
        ids = self.language.generate(
            inputs_embeds=self.embed(tokens, embeds),
            attention_mask=tokens.attention_mask,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_length,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
            do_sample=do_sample,
            eos_token_id=self.stop_ids,
            stopping_criteria=self.text_stops(),
            **sampling,
        )
        return [
            read_reply(self.language.tokenizer, row, self.stop_ids, self.end_text) for row in ids.tolist()
        ]

    def part_to_shard(self) -> PreTrainedModel | None:
        return self.language.model if self.language.sharded else None

    def checkpoint_meta(self) -> dict[str, Any]:
        return describe(self.vision, self.language, self.prompts)

    def find_mismatch(self, meta: Mapping[str, Any]) -> str | None:
        return find_mismatch(self.checkpoint_meta(), meta)

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


def _as_dialogue(prompt: str | Dialogue) -> Dialogue:
    return prompt if isinstance(prompt, Dialogue) else Dialogue((Turn("user", prompt, verbatim=True),))


def _check_image_count(dialogues: Dialogue | Sequence[Dialogue], images: int) -> None:
    dialogues = [dialogues] if isinstance(dialogues, Dialogue) else dialogues
    wanted = sum(dialogue.images for dialogue in dialogues)
    if wanted != images:
        raise ValueError(f"the prompts have {wanted} <ImageHere>, but {images} images were given")

"""Images into text: what MiniGPT-4 and MiniGPT-v2 share.

Shapes: B batch, N images of the whole batch, P tokens an image, T text and image tokens, D width of the
language model, V its vocabulary.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, StoppingCriteriaList

from minigpt4.models.base_model import TABLE_ROW
from minigpt4.models.execution import compile_language_model, is_causal, recompute_layers, unmasked
from minigpt4.models.head_loss import head_losses
from minigpt4.models.identity import describe, find_mismatch
from minigpt4.models.llm_loading import load_language_model, ranks_share_layers, warn_if_dead
from minigpt4.models.vision_tower import ImageTokens
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from minigpt4.prompts.reply_end import StopAtText, read_reply
from minigpt4.prompts.requests import read_requests
from minigpt4.prompts.sample import Batch
from minigpt4.prompts.templates import PromptTemplate
from minigpt4.weights.resolver import resolve_model

log = logging.getLogger(__name__)


class MiniGPTBase(ImageTokens):
    """A vision encoder and a language model. Subclasses add `llama_proj`, which joins them.

    Args:
        vision: the arguments of `ImageTokens`, the device too; `compile` is the language model's too.
        llama_model, llm_backbone, llm_precision: see `load_language_model`.
        low_resource: True is the original's way to say `llm_precision: 8bit`.
        prompt_path: a file of requests for captions, one per line, of which training draws one per batch.
        prompt_template: e.g. `[INST] {} [/INST] `; None takes the language model's own.
        end_sym: what ends an answer; None takes the language model's own.
        max_txt_len: longest answer in tokens.
        max_context_len: longest prompt in tokens.
        llm_sanity_check: warn at the start if the language model knows no English.
        llm_grad_checkpoint: keep less of the language model for the backward pass, and compute it again.
        attn_implementation, device_map: see `load_language_model`; the first is the encoder's too.
    """

    def __init__(
        self,
        *,
        vision: dict[str, Any],
        llama_model: str,
        llm_backbone: str,
        llm_precision: str,
        low_resource: bool,
        prompt_path: str,
        prompt_template: str | None,
        end_sym: str | None,
        max_txt_len: int,
        max_context_len: int,
        llm_sanity_check: bool,
        llm_grad_checkpoint: bool,
        attn_implementation: str | None,
        device_map: str | None,
    ) -> None:
        requests = read_requests(prompt_path)
        llama_path = resolve_model(llama_model, "model.llama_model")
        super().__init__(**vision, attn_implementation=attn_implementation)
        self.llama_model, self.llama_tokenizer, self.backbone = load_language_model(
            llama_path,
            llm_backbone,
            "8bit" if low_resource else llm_precision,
            self._target_device,
            attn_implementation=attn_implementation,
            device_map=device_map,
        )
        self.freeze(self.llama_model)
        self._shared = ranks_share_layers(device_map)
        if llm_sanity_check:
            warn_if_dead(self.llama_model, self.llama_tokenizer, self.backbone.bos_id, llama_model)
        template = self.backbone.template.with_overrides(prompt_template, end_sym)
        self.prompt_list = [template.turn(request) for request in requests]
        self.vit_name = vision["vit_model"]
        self.llm_name = str(llama_model).rstrip("/").rsplit("/", 1)[-1]
        self.stop_ids = self.backbone.end_ids(self.llama_model.generation_config, template.end)
        self.max_txt_len, self.max_context_len = max_txt_len, max_context_len
        self.prompts = PromptEncoder(
            self.llama_tokenizer,
            self.backbone.bos_id,
            self.token_shape.count,
            template,
            max_txt_len,
            max_context_len,
            requests,
        )
        width = self.llama_model.config.get_text_config().hidden_size
        self.llama_proj = nn.Linear(self.token_shape.width, width).to(self._target_device)
        if vision["compile"]:
            compile_language_model(self.llama_model)
        if llm_grad_checkpoint:
            recompute_layers(self.llama_model)

    @property
    def template(self) -> PromptTemplate:
        """How turns are written."""
        return self.prompts.template

    def part_to_shard(self) -> PreTrainedModel | None:
        return self.llama_model if self._shared else None

    def project(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens [N, P, width] -> embeddings [N, P, D].

        The projection computes in its own dtype (float32 in training) whatever autocast says: it costs
        next to nothing, and its gradient is exact.
        """
        with torch.autocast(self.device.type, enabled=False):
            weight = self.llama_proj.weight
            return self.llama_proj(tokens.to(weight.device, weight.dtype, non_blocking=True))

    def encode_img(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] (uint8, or normalised floats) -> embeddings [N, P, D] and their mask [N, P]."""
        embeds = self.project(self.image_tokens(image))
        return embeds, torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)

    def _see(self, images: torch.Tensor) -> torch.Tensor:
        """Pixels [N, 3, H, W], or what `image_tokens` made of them [N, P, width] -> embeddings [N, P, D]."""
        return self.project(images) if images.ndim == 3 else self.encode_img(images)[0]

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., T] -> [..., T, D] as the first layer sees them (Gemma's factor is in here)."""
        return self.llama_model.get_input_embeddings()(ids)

    def _embed(self, tokens: TokenBatch, images: torch.Tensor | None) -> torch.Tensor:
        """Text embeddings with image embeddings [N, P, D] in their places -> [B, T, D]."""
        embeds = self.embed_tokens(tokens.ids).to(self.device)
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
        return self._embed(tokens, torch.cat(list(img_list)) if img_list else None)

    def caption_prompt(self) -> str:
        """The prompt under which captions were trained: the first of `prompt_path`, or the bare image."""
        return self.prompt_list[0] if self.prompt_list else self.prompts.requests[0].text

    def prepare(self, samples: Batch | Mapping[str, Any], *, evaluation: bool = False) -> Batch:
        """The host's share of a step: put the requests of captions, tokenise, check the images' places.

        Args:
            samples: a batch, or the original's dict (see `Batch.from_mapping`).
            evaluation: put the first request instead of one that is drawn, and ask for the last answer of
                each dialogue instead of all.

        Returns:
            The same, with `tokens` on the CPU. Nothing behind this asks the device for a value.
        """
        batch = samples if isinstance(samples, Batch) else Batch.from_mapping(samples)
        request = self.prompts.requests[0] if evaluation else self.prompts.draw_request()
        dialogues = [dialogue.requested(request) for dialogue in batch.dialogues]
        for dialogue, count in zip(dialogues, batch.image_counts, strict=True):
            _check_image_count(dialogue, count)
        tokens = self.prompts.encode(dialogues, learn_all=not evaluation)
        return replace(batch, dialogues=dialogues, tokens=tokens)

    def token_losses(self, samples: Batch | Mapping[str, Any]) -> tuple[torch.Tensor, TokenBatch]:
        """Cross entropy of every target token: [targets] in float32, and the batch they belong to.

        Only target positions go through the head, so no logits are built where there is no label.

        Args:
            samples: as `prepare` gives them, or as it takes them.
        """
        batch = samples if isinstance(samples, Batch) and samples.tokens else self.prepare(samples)
        assert batch.tokens is not None
        tokens = batch.tokens.to(self.device)
        embeds = self._embed(tokens, None if batch.images is None else self._see(batch.images))
        causal = is_causal(self.llama_model.config.get_text_config())
        with self.own_precision(self.llama_model), unmasked(self.llama_model, embeds.shape[1]):
            hidden = self.llama_model.get_decoder()(
                inputs_embeds=embeds,
                # Padding stands at the right end, where causal attention does not look.
                attention_mask=None if causal else tokens.attention_mask,
                use_cache=False,
            ).last_hidden_state
            # Under `device_map: auto` the last layer may be on another card than the first.
            wanted = hidden.flatten(0, 1).index_select(0, tokens.target_index.to(hidden.device))
            vocabulary = self.llama_model.config.get_text_config().vocab_size
            losses = head_losses(wanted, tokens.target_ids, self._logits, vocabulary)
        return losses, tokens

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, D] -> [rows, V] in float32, capped where the model caps its logits (Gemma-2)."""
        logits = self.llama_model.get_output_embeddings()(hidden).to(self.device).float()
        cap = getattr(self.llama_model.config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

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

    def text_stops(self) -> StoppingCriteriaList:
        """What ends a reply beside `stop_ids`: an end symbol of several tokens, such as "###"."""
        end = self.template.end
        one_token = self.llama_tokenizer.convert_tokens_to_ids(end) in self.stop_ids
        stops = [StopAtText(self.llama_tokenizer, end)] if end and not one_token else []
        return StoppingCriteriaList(stops)

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
            One reply a prompt, without its end symbol and surrounding white space.
        """
        dialogues = [_as_dialogue(text) for text in texts]
        _check_image_count(dialogues, 0 if images is None else len(images))
        tokens = self.prompts.encode(dialogues, pad_left=True).to(self.device)
        embeds = None if images is None else self._see(images)
        sampling = {"top_p": float(top_p), "temperature": float(temperature)} if do_sample else {}
        ids = self.llama_model.generate(
            inputs_embeds=self._embed(tokens, embeds),
            attention_mask=tokens.attention_mask,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_length,
            repetition_penalty=repetition_penalty,
            length_penalty=length_penalty,
            do_sample=do_sample,
            eos_token_id=self.stop_ids,
            pad_token_id=self.stop_ids[0],
            stopping_criteria=self.text_stops(),
            **sampling,
        )
        end = self.template.end
        return [read_reply(self.llama_tokenizer, row, self.stop_ids, end) for row in ids.tolist()]

    def checkpoint_meta(self) -> dict[str, Any]:
        return describe(self)

    def find_mismatch(self, meta: Mapping[str, Any]) -> str | None:
        return find_mismatch(self.checkpoint_meta(), meta)

    def in_own_convention(self, tensors: dict[str, torch.Tensor], convention: str) -> dict[str, torch.Tensor]:
        """A projection into the embedding table's scale, times the factor that the model applied later."""
        if convention != TABLE_ROW:
            return tensors
        factor = self.backbone.embedding_factor(self.llama_model.config.get_text_config())
        log.info("the projection is multiplied by %g, the language model's embedding factor", factor)
        return {
            name: value * factor if name.startswith("llama_proj.") else value
            for name, value in tensors.items()
        }


def _as_dialogue(prompt: str | Dialogue) -> Dialogue:
    return prompt if isinstance(prompt, Dialogue) else Dialogue((Turn("user", prompt, verbatim=True),))


def _check_image_count(dialogues: Dialogue | Sequence[Dialogue], images: int) -> None:
    dialogues = [dialogues] if isinstance(dialogues, Dialogue) else dialogues
    wanted = sum(dialogue.images for dialogue in dialogues)
    if wanted != images:
        raise ValueError(f"the prompts have {wanted} <ImageHere>, but {images} images were given")

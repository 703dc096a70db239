"""Images into text: what MiniGPT-4 and MiniGPT-v2 share.

Shapes: B batch, N images of the whole batch, P tokens an image, T text and image tokens, D width of the
language model, V its vocabulary.
"""

import hashlib
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from torch import nn
from transformers import StoppingCriteriaList

from minigpt4 import __version__
from minigpt4.common.device import dtype_for, pick_device
from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.weights import require_value, resolve_model
from minigpt4.conversation.stopping import StopAtText, read_reply
from minigpt4.conversation.templates import IMAGE_PLACEHOLDER
from minigpt4.models.base_model import FIRST_LAYER_INPUT, TABLE_ROW, BaseModel
from minigpt4.models.identity import find_mismatch
from minigpt4.models.llm import load_language_model, warn_if_dead
from minigpt4.models.prompting import PromptEncoder, TokenBatch
from minigpt4.models.vision import build_vision_encoder, image_statistics
from minigpt4.processors.blip_processors import normalize

log = logging.getLogger(__name__)


class MiniGPTBase(BaseModel):
    """A vision encoder and a language model. Subclasses add what lies between, and `encode_img`.

    Args:
        vit_model, vit_weights, vit_kwargs, image_size, drop_path_rate, use_grad_checkpoint: see
            `build_vision_encoder`.
        vit_precision: fp16, bf16 or fp32, for the frozen encoder and Q-Former; what is trained is fp32.
        freeze_vit: whether the encoder and its `ln_vision` stay as they are.
        llama_model, llm_backbone, llm_precision: see `load_language_model`.
        low_resource: True is the original's way to say `llm_precision: 8bit`.
        prompt_path: a file of prompts, one a line, of which training draws one a batch.
        prompt_template: e.g. `[INST] {} [/INST] `; None takes the language model's own.
        end_sym: what ends an answer; None takes the language model's own.
        max_txt_len: longest answer in tokens.
        max_context_len: longest prompt in tokens.
        llm_sanity_check: warn at the start if the language model knows no English.
        attn_implementation, device_map: see `load_language_model`; the first is the encoder's too.
        device: where everything goes; None takes the best there is.
    """

    def __init__(
        self,
        *,
        vit_model: str,
        vit_weights: str | None,
        vit_kwargs: dict[str, Any] | None,
        vit_precision: str,
        image_size: int,
        drop_path_rate: float,
        use_grad_checkpoint: bool,
        freeze_vit: bool,
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
        attn_implementation: str | None,
        device_map: str | None,
        device: str | torch.device | None,
    ) -> None:
        super().__init__()
        target = pick_device(device)
        self.vit_dtype = dtype_for(vit_precision, target, "model.vit_precision")
        self.image_size = image_size
        prompts = _read_prompts(prompt_path)
        llama_path = resolve_model(llama_model, "model.llama_model")

        self.visual_encoder = build_vision_encoder(
            vit_model,
            image_size,
            vit_weights=vit_weights,
            vit_kwargs=vit_kwargs,
            drop_path_rate=drop_path_rate,
            use_grad_checkpoint=use_grad_checkpoint,
            attn_implementation=attn_implementation,
            dtype=self.vit_dtype if freeze_vit else torch.float32,
            device=target,
        )
        self.loaded_elsewhere += ("visual_encoder.", "ln_vision.")
        self.ln_vision = nn.LayerNorm(self.visual_encoder.num_features)
        if freeze_vit:
            self.freeze(self.visual_encoder)
            self.freeze(self.ln_vision)
        mean, std = image_statistics(self.visual_encoder)
        self.register_buffer("image_mean", torch.tensor(mean), persistent=False)
        self.register_buffer("image_std", torch.tensor(std), persistent=False)

        self.llama_model, self.llama_tokenizer, self.backbone = load_language_model(
            llama_path,
            llm_backbone,
            "8bit" if low_resource else llm_precision,
            target,
            attn_implementation=attn_implementation,
            device_map=device_map,
        )
        self.freeze(self.llama_model)
        if llm_sanity_check:
            warn_if_dead(self.llama_model, self.llama_tokenizer, self.backbone.bos_id, llama_model)
        self.template = self.backbone.template.with_overrides(prompt_template, end_sym)
        self.prompt_list = [self.template.turn(prompt) for prompt in prompts]
        self._ids = {
            "vit_model": vit_model,
            "llama_model": str(llama_model).rstrip("/").rsplit("/", 1)[-1],
        }
        self.max_txt_len, self.max_context_len = max_txt_len, max_context_len
        self._target_device = target

    def _finish(self, image_tokens: int) -> None:
        """Called by subclasses once everything is built: settle dtypes and device, and the prompts."""
        for module in (self.visual_encoder, self.ln_vision, getattr(self, "Qformer", None)):
            if module is not None:
                frozen = module in self._frozen
                module.to(self._target_device, self.vit_dtype if frozen else torch.float32)
        # All but the language model, which is where it belongs already (and may be quantised).
        for name, child in self.named_children():
            if name != "llama_model":
                child.to(self._target_device)
        for tensor in (*self._parameters.values(), *self._buffers.values()):
            tensor.data = tensor.data.to(self._target_device)
        self.stop_ids = self.backbone.end_ids(self.llama_model.generation_config, self.template.end)
        self.prompts = PromptEncoder(
            self.llama_tokenizer,
            self.backbone.bos_id,
            image_tokens,
            self.template.end,
            self.max_txt_len,
            self.max_context_len,
        )

    def encode_img(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, H, W] (uint8, or normalised floats) -> embeddings [N, P, D] and their mask [N, P]."""
        raise NotImplementedError

    def _normalized(self, image: torch.Tensor) -> torch.Tensor:
        """uint8 pixels are normalised here, on the device; floats are taken to be so already."""
        image = image.to(self.device, non_blocking=True)
        if image.dtype == torch.uint8:
            image = normalize(image, self.image_mean, self.image_std)
        return image.to(next(self.visual_encoder.parameters()).dtype)

    def to_pixels(self, image: torch.Tensor) -> np.ndarray:
        """[3, H, W], uint8 or normalised -> uint8 array [H, W, 3], for a person to look at."""
        if image.dtype != torch.uint8:
            std, mean = (b.cpu().view(3, 1, 1) for b in (self.image_std, self.image_mean))
            image = (image.cpu() * std + mean).mul(255).round().clamp(0, 255).to(torch.uint8)
        return image.permute(1, 2, 0).cpu().numpy()

    def embed_tokens(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., T] -> [..., T, D] as the first layer sees them (Gemma's factor is in here)."""
        return self.llama_model.get_input_embeddings()(ids)

    def _embed(self, tokens: TokenBatch, images: torch.Tensor | None) -> torch.Tensor:
        """Text embeddings with image embeddings [N, P, D] in their places -> [B, T, D]."""
        embeds = self.embed_tokens(tokens.ids).to(self.device)
        if images is None:
            return embeds
        batch, length, width = embeds.shape
        flat = embeds.reshape(batch * length, width)
        images = images.reshape(-1, width).to(flat.dtype)
        return flat.index_copy(0, tokens.image_index, images).view(batch, length, width)

    def get_context_emb(self, prompt: str, img_list: Sequence[torch.Tensor]) -> torch.Tensor:
        """A prompt with IMAGE_PLACEHOLDERs and its images' embeddings [1, P, D] each -> [1, T, D]."""
        _check_image_count(prompt, len(img_list))
        tokens = self.prompts.encode([prompt]).to(self.device)
        return self._embed(tokens, torch.cat(list(img_list)) if img_list else None)

    def _training_prompts(self, samples: dict[str, Any]) -> list[str]:
        """The text around each sample's image: its own instruction, a prompt of the list, or nothing."""
        batch = len(samples["answer"])
        if "instruction_input" in samples:
            return list(samples["instruction_input"])
        if self.prompt_list:
            return [random.choice(self.prompt_list)] * batch
        return [IMAGE_PLACEHOLDER] * batch

    def _turns(self, samples: dict[str, Any], own: str) -> tuple[list[list[str]], list[list[str]]]:
        """Each dialogue's prompts as the template writes them, and the answers to them.

        Args:
            samples: with `conv_q` and `conv_a`, lists of turns or texts joined by `connect_sym`. What is
                asked is bare, `<Img><ImageHere></Img>` where an image goes; None asks what `own` asks.
            own: a whole prompt.
        """
        questions, answers = samples["conv_q"], samples["conv_a"]
        if "connect_sym" in samples:
            signs = samples["connect_sym"]
            questions = [text.split(sign) for text, sign in zip(questions, signs, strict=True)]
            answers = [text.split(sign) for text, sign in zip(answers, signs, strict=True)]
        prompts = []
        for first, *later in questions:
            begin = own if first is None else self.template.turn(first)
            prompts.append([begin, *(self.template.later_turn(question) for question in later)])
        return prompts, answers

    def evaluation_prompts(self, samples: dict[str, Any]) -> list[str]:
        """The whole prompt before each sample's `answer`, its earlier turns included, as chat writes it."""
        if "instruction_input" in samples:
            return list(samples["instruction_input"])
        if "conv_q" not in samples:
            return [self.caption_prompt()] * len(samples["answer"])
        end = self.template.end
        return [
            "".join(prompt + answer + end for prompt, answer in zip(prompts, answers[:-1], strict=False))
            + prompts[-1]
            for prompts, answers in zip(*self._turns(samples, self.caption_prompt()), strict=True)
        ]

    def caption_prompt(self) -> str:
        """The prompt under which captions were trained: the first of `prompt_path`, or the bare image."""
        return self.prompt_list[0] if self.prompt_list else IMAGE_PLACEHOLDER

    def token_losses(self, samples: dict[str, Any]) -> tuple[torch.Tensor, TokenBatch]:
        """Cross entropy of every target token: [targets] in float32, and the batch they belong to.

        Only target positions go through the head, so no logits are built where there is no label.
        """
        prompts, answers = self._training_prompts(samples), samples["answer"]
        if "conv_q" in samples and "instruction_input" not in samples:
            prompts, answers = self._turns(samples, own=prompts[0])
        image = flat_images(samples)
        _check_image_count("".join(piece for prompt in prompts for piece in prompt), len(image))
        tokens = self.prompts.encode(prompts, answers).to(self.device)
        images, _ = self.encode_img(image)
        with self.own_precision(self.llama_model):
            hidden = self.llama_model.get_decoder()(
                inputs_embeds=self._embed(tokens, images),
                attention_mask=tokens.attention_mask,
                use_cache=False,
            ).last_hidden_state
            # Under `device_map: auto` the last layer may be on another card than the first.
            wanted = tokens.target_index.to(hidden.device)
            logits = self._logits(hidden.flatten(0, 1).index_select(0, wanted)).to(self.device)
        return F.cross_entropy(logits, tokens.target_ids, reduction="none"), tokens

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """[rows, D] -> [rows, V] in float32, capped where the model caps its logits (Gemma-2)."""
        logits = self.llama_model.get_output_embeddings()(hidden).float()
        cap = getattr(self.llama_model.config, "final_logit_softcapping", None)
        return cap * torch.tanh(logits / cap) if cap else logits

    def forward(self, samples: dict[str, Any], reduction: str = "mean") -> dict[str, torch.Tensor]:
        """The loss of a batch.

        Args:
            samples: `image` [B, 3, H, W] or [B, images, 3, H, W] (of which `length` are real, where it is
                given), `answer` (list of str), and optionally `instruction_input` (list of str with
                `<Img><ImageHere></Img>` where an image goes), or dialogues in `conv_q` and `conv_a`, of
                which every answer is learned.
            reduction: `mean` over target tokens; `none` for one loss a sample, averaged over the padded
                length of the batch as the original does.
        """
        losses, tokens = self.token_losses(samples)
        if reduction == "mean":
            return {"loss": losses.mean()}
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
        texts: Sequence[str],
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
            images: [N, 3, H, W] for all IMAGE_PLACEHOLDERs of `texts` in order; None without any.
            texts: whole prompts, as `template.turn` writes them.

        Returns:
            One reply a prompt, without its end symbol and surrounding white space.
        """
        _check_image_count("".join(texts), 0 if images is None else len(images))
        tokens = self.prompts.encode(texts, pad_left=True).to(self.device)
        embeds = None if images is None else self.encode_img(images)[0]
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
        config = self.llama_model.config.get_text_config()
        return {
            **self._ids,
            "vit_width": self.visual_encoder.num_features,
            "llm_fingerprint": self._fingerprint(),
            "llm_width": config.hidden_size,
            "llm_vocabulary": config.vocab_size,
            "image_size": self.image_size,
            "embedding_convention": FIRST_LAYER_INPUT,
            "template": vars(self.template),
            # Without prompts no turn was written, and another template may follow.
            "prompted": bool(self.prompt_list),
            "versions": {
                "minigpt4": __version__,
                "torch": torch.__version__.split("+")[0],
                "transformers": transformers.__version__,
            },
        }

    @torch.no_grad()
    def _fingerprint(self) -> str:
        """Tells language models apart whose folders have one name, and finds one again that was renamed."""
        vocabulary = self.llama_model.config.get_text_config().vocab_size
        some_words = torch.linspace(0, vocabulary - 1, 64, device=self.device).long()
        values = self.embed_tokens(some_words).bfloat16().view(torch.int16).cpu().numpy()
        return hashlib.sha256(values.tobytes()).hexdigest()[:16]

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


def _read_prompts(path: str) -> list[str]:
    """The prompts of a file, one a line; those without an image are left out, as in the original."""
    if not path:
        return []
    file = Path(require_value(path, "model.prompt_path")).expanduser()
    if not file.is_file():
        siblings = [p.name for p in file.parent.glob("*.txt")]
        raise ConfigError(f"model.prompt_path: no file {path!r}{nearest(file.name, siblings)}")
    prompts = [line for line in file.read_text(encoding="utf-8").splitlines() if IMAGE_PLACEHOLDER in line]
    if not prompts:
        raise ConfigError(f"model.prompt_path: no line of {path} holds {IMAGE_PLACEHOLDER}")
    return prompts


def flat_images(samples: Mapping[str, Any]) -> torch.Tensor:
    """All real images of a batch in order: pixels [N, 3, H, W], or cached features [N, P, width].

    Args:
        samples: `image` [B, 3, H, W] or [B, images, 3, H, W], or `image_features` [B, P, width] or
            [B, images, P, width], of which `length` are real, where it is given.
    """
    cached = "image_features" in samples
    image = samples["image_features" if cached else "image"]
    if "length" in samples:
        return torch.cat([row[:length] for row, length in zip(image, samples["length"], strict=True)])
    return image.flatten(0, 1) if image.ndim == (4 if cached else 5) else image


def _check_image_count(text: str, images: int) -> None:
    wanted = text.count(IMAGE_PLACEHOLDER)
    if wanted != images:
        raise ValueError(f"the prompts have {wanted} {IMAGE_PLACEHOLDER}, but {images} images were given")

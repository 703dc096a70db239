"""The language model with its tokenizer and family, frozen or trained.

Shapes: B batch, T text and image tokens, D width, V vocabulary.
"""

import hashlib
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.models.backbones.base_backbone import BaseBackbone
from minigpt4.models.execution import (
    compile_blocks,
    layers_of,
    own_precision,
    recompute_blocks,
    unmasked,
    without_cudnn_attention,
)
from minigpt4.models.head_loss import Head, head_losses
from minigpt4.models.library_head import decoder_of, logits_of
from minigpt4.models.lora import Lora, lora_layers
from minigpt4.prompts.encoder import TokenBatch

# That is intended: the original, too, only penalises repetitions within the reply.
warnings.filterwarnings("ignore", message="Passing `repetition_penalty` with `inputs_embeds`")


# The ids that begin, end and pad a text, as configs name them.
TEXT_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


class CausalLM(PreTrainedModel):
    """The type of what `AutoModelForCausalLM` loads; the library has no name for it."""

    generate: Callable[..., Any]


class LanguageModel(nn.Module):
    """A causal language model that reads embeddings.

    Inputs may be on any device: with `device_map: auto` it is not on the device of the other parts.

    Args:
        model: as transformers loads it.
        tokenizer: its tokenizer.
        backbone: its family.
        trainable: which of its weights are trained: none (`frozen`) or all (`full`).
        lora: an adapter to add, which is trained beside frozen weights.
        name: of its folder or file; checkpoints remember it.
        sharded: whether the ranks are to hold a part of every layer each.
        device: of the adapter; None: of the weights.

    Attributes:
        frozen: whether its own weights stay as they are.
        trains_head: whether anything behind the decoder is trained.
        recomputed: whether its layers keep their input alone for the backward pass.
        compiled: whether its layers were compiled for training; chat compiles a step of its own then.
        drops_masks: whether attention kernels get no mask when it would only be the causal one.
        fingerprint: of the embeddings it came with, whatever is trained later. It tells language models apart
            whose folders have one name, and finds one again that was renamed.
    """

    def __init__(
        self,
        model: CausalLM,
        tokenizer: PreTrainedTokenizerBase,
        backbone: BaseBackbone,
        *,
        trainable: str = "frozen",
        lora: Lora | None = None,
        name: str = "",
        sharded: bool = False,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.backbone = model, tokenizer, backbone
        self.frozen, self.lora, self.name, self.sharded = trainable == "frozen", lora, name, sharded
        self.recomputed = self.compiled = False
        self.drops_masks = True
        self.fingerprint = self._take_fingerprint()
        # Other settings of the folder (sampling, forced tokens, output types) would silently change captions:
        # only the arguments of `generate` count.
        model.generation_config = _ids_alone(model.generation_config)
        model.requires_grad_(not self.frozen)
        if lora is not None:
            lora.add_to(model, device)
        self.trains_head = not self.frozen or _adapted_behind(model)
        self.train(self.training)

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config.get_text_config()

    @property
    def width(self) -> int:
        """Of its input embeddings; some models have another width inside (OPT-350m)."""
        table: Any = self.model.get_input_embeddings()
        return table.weight.shape[-1]

    @property
    def positions(self) -> int | None:
        """Its maximum context in tokens; None if the config has no limit."""
        most = getattr(self.config, "max_position_embeddings", None)
        return most if isinstance(most, int) and most > 0 else None

    @property
    def device(self) -> torch.device:
        """The device of its embedding table."""
        table: Any = self.model.get_input_embeddings()
        # A table that accelerate keeps on the CPU or on disk is brought to this device when it is needed.
        brought_to = getattr(getattr(table, "_hf_hook", None), "execution_device", None)
        return table.weight.device if brought_to is None else torch.device(brought_to)

    @property
    def layers(self) -> list[nn.Module]:
        return layers_of(self.model)

    @property
    def embedding_factor(self) -> float:
        """The factor between `embed` and the embedding table (Gemma: the square root of D).

        It is measured, because a family chosen for its template need not match.
        """
        table: Any = self.model.get_input_embeddings()
        if table.weight.is_meta:  # accelerate keeps it on the CPU or on disk
            return float(getattr(table, "embed_scale", 1.0))
        ids = self._some_ids()
        with torch.no_grad():
            rows = table.weight[ids.to(table.weight.device)]
            return self.embed(ids).double().norm().item() / rows.double().norm().item()

    def train(self, mode: bool = True) -> "LanguageModel":
        """If frozen, it stays in evaluation mode, without dropout but that of LoRA."""
        super().train(mode and not self.frozen)
        for layer in lora_layers(self.model):
            layer.lora_dropout.train(mode)
        return self

    def in_own_precision(self) -> AbstractContextManager:
        """The context to run it in: frozen weights compute in their own dtype, trained ones in autocast's.

        An adapter follows autocast, too, where that has the frozen weights' dtype, so that these compute as
        before.
        """
        shared = self.lora is not None and torch.get_autocast_dtype(self.device.type) == self.model.dtype
        return own_precision(self.frozen and not shared, self.device)

    @torch.no_grad()
    def _take_fingerprint(self) -> str:
        values = self.embed(self._some_ids()).bfloat16().view(torch.int16).cpu().numpy()
        return hashlib.sha256(values.tobytes()).hexdigest()[:16]

    def _some_ids(self) -> torch.Tensor:
        """64 ids from the whole vocabulary."""
        return torch.linspace(0, self.config.vocab_size - 1, 64).long()

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """[..., T] -> [..., T, D] as the first layer sees them (Gemma's factor is in here), beside `ids`."""
        return self.model.get_input_embeddings()(ids.to(self.device)).to(ids.device)

    def token_losses(self, embeds: torch.Tensor, tokens: TokenBatch) -> torch.Tensor:
        """Cross entropy of every target token: [targets] in float32.

        Only target positions go through the head, so no logits are built where there is no label.

        Args:
            embeds: [B, T, D], of text and images.
            tokens: the batch they belong to, on the same device.

        Returns:
            The losses, on that device too.
        """
        with self.in_own_precision():
            hidden, head = self._decode(embeds, tokens.target_index)
            losses = head_losses(
                hidden, tokens.target_ids, head, self.config.vocab_size, trained=self.trains_head
            )
        return losses.to(embeds.device)

    def logits(self, embeds: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Logits [places, V] in float32.

        Args:
            embeds: [B, T, D], padded on the right.
            index: [places], of the flattened B*T.
        """
        with self.in_own_precision():
            hidden, head = self._decode(embeds, index)
            return head(hidden)

    def _decode(self, embeds: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, Head]:
        """Hidden states [places, D], and the function that computes their logits."""
        # Padding needs no mask: it is on the right, where causal attention does not look. Models that do look
        # there are refused when they are loaded (`library_check`).
        with unmasked(self.model, embeds.shape[1]) if self.drops_masks else nullcontext():
            outputs = decoder_of(self.model)(inputs_embeds=embeds.to(self.device), use_cache=False)
        hidden = outputs.last_hidden_state
        # Under `device_map: auto` the last layer may be on another card than the first.
        places = hidden.flatten(0, 1).index_select(0, index.to(hidden.device))
        return places, partial(logits_of, self.model, output_type=type(outputs))

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' `generate`, within the model's context.

        With an `eos_token_id` of None or empty, a reply ends at `max_new_tokens`.

        Raises:
            DataError: for a prompt that leaves no room for a reply.
        """

        def moved(value: Any) -> Any:
            return value.to(self.device) if torch.is_tensor(value) else value

        kwargs = {key: moved(value) for key, value in kwargs.items()}
        prompt, most = kwargs.get("inputs_embeds"), kwargs.get("max_new_tokens")
        if self.positions and prompt is not None and most is not None:
            kwargs["max_new_tokens"] = min(most, _room(prompt.shape[1], self.positions))
        if "eos_token_id" in kwargs:
            ends = kwargs["eos_token_id"] = kwargs["eos_token_id"] or None
            # Padding of shorter replies is cut off with their end.
            kwargs["pad_token_id"] = ends[0] if isinstance(ends, list) else ends or 0
        with without_cudnn_attention():
            return self.model.generate(*map(moved, args), **kwargs)

    def recompute_layers(self) -> None:
        """Keep only each layer's input, and compute the rest of it again in the backward pass.

        Raises:
            ConfigError: for a model whose layers are not known.
        """
        if not self.layers:
            raise ConfigError(
                "model.llm_grad_checkpoint: transformers does not say what the layers of a "
                f"{self.model.config.model_type} are"
            )
        recompute_blocks(self.layers, random=not self.frozen or self.lora is not None)
        self.recomputed = True

    def compile_layers(self) -> None:
        """Compile the layers for training, with dynamic lengths; `generate` stays eager."""
        compile_blocks(self.layers, self.device, dynamic=True)
        self.compiled = True
        # Decoding steps do not fit the compiled layers.
        self.model.generate = torch.compiler.set_stance("force_eager")(self.model.generate)


def _adapted_behind(model: CausalLM) -> bool:
    decoder = {id(parameter) for parameter in decoder_of(model).parameters()}
    return any(p.requires_grad and id(p) not in decoder for p in model.parameters())


def _ids_alone(generation: GenerationConfig | None) -> GenerationConfig:
    """The BOS, EOS and padding ids, and the library's defaults."""
    return GenerationConfig(**{name: _ids(getattr(generation, name, None)) for name in TEXT_IDS})


def _ids(value: Any) -> int | list[int] | None:
    """An id or a list of them, without values that cannot be ids."""
    given = value if isinstance(value, list) else [value]
    ids = [one for one in given if type(one) is int and 0 <= one < 2**31]
    return (ids if isinstance(value, list) else ids[0]) if ids else None


def _room(prompt: int, positions: int) -> int:
    if prompt >= positions:
        raise DataError(
            f"a prompt of {prompt} tokens leaves no room for a reply: the language model's limit is "
            f"{positions} (max_position_embeddings)"
        )
    return positions - prompt

"""What a model's forward pass keeps for the backward pass, and what it works with meanwhile. In bytes.

Reckoned, not tried: the language model's share from its layers and its config, that of encoder and Q-Former,
of which there are all kinds, by sending one picture through copies that have shapes and no memory.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from minigpt4.models.execution import layers_of
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.vision import vision_blocks, visual_tokens

FLOAT32 = 4


def looking(model: MiniGPTBase) -> tuple[dict[str, int], dict[str, int]]:
    """What encoder and Q-Former work with, and what is kept of them if they are trained."""
    if not hasattr(model, "visual_encoder"):
        return {}, {}
    needed = vision_bytes(model)
    normalised = 3 * model.image_size**2 * (FLOAT32 + model.vit_dtype.itemsize)
    kept = {"kept of encoder and Q-Former": needed.kept} if needed.kept else {}
    return {"work of encoder and Q-Former": needed.work + normalised}, kept


def reading(model: MiniGPTBase, tokens: int, recompute: bool) -> dict[str, int]:
    """What the language model works with and keeps."""
    size, targets, shape = number_bytes(model), model.max_txt_len, model.token_shape
    config = model.llama_model.config.get_text_config()
    width = config.hidden_size
    layers = language_layers(model, tokens, size)
    kept = len(layers) * width * size if recompute else sum(layers)
    return {
        # Image tokens before the projection. Embeddings: of the text, of text and images, and the last hidden
        # state; of that the targets' rows, and their gradients twice.
        "embeddings": shape.count * shape.width * FLOAT32 + 3 * (tokens + targets) * width * size,
        # The last norm is one more.
        "kept of the language model": (kept + (width + 1) * FLOAT32) * tokens,
        # On the way back through a layer, there is a gradient of everything that was kept of it.
        "work within a layer": max(layers, default=0) * (1 + recompute) * tokens,
        "logits": targets * config.vocab_size * logit_bytes(model),
    }


def logit_bytes(model: MiniGPTBase) -> int:
    """Of a logit, going back: log-softmax and two gradients; if capped (Gemma-2), tanh and product too."""
    capped = getattr(model.llama_model.config.get_text_config(), "final_logit_softcapping", None) is not None
    return (3 + 2 * capped) * FLOAT32


def picture_bytes(model: MiniGPTBase) -> int:
    """Of one sample's uint8 pixels, or features in bfloat16."""
    if hasattr(model, "visual_encoder"):
        return 3 * model.image_size**2
    return 2 * model.token_shape.count * model.token_shape.width


def number_bytes(model: MiniGPTBase) -> int:
    """What a number takes that the language model computes with, its weights quantised or not."""
    return model.llama_model.get_input_embeddings().weight.element_size()


def recomputed(model: MiniGPTBase) -> bool:
    """Whether the language model's layers keep their input alone (`model.llm_grad_checkpoint`)."""
    return any(isinstance(layer.forward, partial) for layer in layers_of(model.llama_model))


def language_layers(model: MiniGPTBase, tokens: int, size: int) -> list[int]:
    """What each frozen layer of the language model keeps of every token, unless it is recomputed.

    Args:
        model: with its language model, whose config and norms decide.
        tokens: T, in a sample; eager attention keeps something for each pair of them.
        size: of the numbers it computes with.
    """
    config = model.llama_model.config.get_text_config()
    rest = _attention(config, tokens, size) + _mlp(config, size)
    return [_norms(layer, config) + rest for layer in layers_of(model.llama_model)]


def _heads(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Heads of queries, heads of keys and values, and how wide one is."""
    heads = config.num_attention_heads
    pairs = getattr(config, "num_key_value_heads", None) or heads
    return heads, pairs, getattr(config, "head_dim", None) or config.hidden_size // heads


def _norms(layer: nn.Module, config: PreTrainedConfig) -> int:
    """The input of each, and a factor a row, in float32 whatever the dtype is.

    So transformers writes RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).
    """
    heads, pairs, head_width = _heads(config)
    kept = 0
    for name, module in layer.named_modules():
        if type(module).__name__.endswith("Norm"):
            width = module.weight.numel()
            # Those of queries and keys have a row for each head, unless they are as wide as all of them.
            per_head = {"q_norm": heads, "k_norm": pairs} if width == head_width else {}
            kept += per_head.get(name.rpartition(".")[2], 1) * (width + 1) * FLOAT32
    return kept


def _attention(config: PreTrainedConfig, tokens: int, size: int) -> int:
    """The frozen products around it keep nothing: a product's input is for its weight's gradient only.

    Fused kernels (Dao et al. 2022, arXiv:2205.14135) keep queries, keys, values, output, and of each head a
    log-sum-exp in float32. Eager attention keeps keys and values repeated for each head, and probabilities:
    in float32, in the model's dtype, and where scores are capped (Gemma-2) their tanh.
    """
    heads, pairs, width = _heads(config)
    if config._attn_implementation != "eager":
        return 2 * (heads + pairs) * width * size + heads * FLOAT32
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    probabilities = FLOAT32 + size * ((size != FLOAT32) + capped)
    return 3 * heads * width * size + heads * tokens * probabilities


def _mlp(config: PreTrainedConfig, size: int) -> int:
    """Gated (Shazeer 2020, arXiv:2002.05202): the gate, its activation, and what that is multiplied with."""
    return 3 * config.intermediate_size * size


@dataclass(frozen=True)
class VisionBytes:
    """Of each picture.

    Attributes:
        work: at the worst moment, with nothing kept.
        kept: for the backward pass; 0 if all is frozen.
    """

    work: int
    kept: int


def vision_bytes(model: MiniGPTBase) -> VisionBytes:
    """Of encoder and Q-Former, trained ones in float32: autocast keeps about half."""
    encoder = _without_memory(model.visual_encoder)
    dtype = next(encoder.parameters()).dtype
    image = torch.empty(1, 3, model.image_size, model.image_size, dtype=dtype, device="meta")
    tokens, kept, largest = _watch(encoder, partial(visual_tokens, encoder, image))
    if getattr(encoder, "grad_checkpointing", False):
        blocks = len(vision_blocks(encoder))
        kept = kept // blocks + blocks * tokens.nbytes
    trained = next(model.visual_encoder.parameters()).requires_grad
    kept *= trained
    if model.has_qformer:
        qformer = _without_memory(model.Qformer)
        queries = torch.empty(model.query_tokens.shape, dtype=qformer.dtype, device="meta")
        look = partial(qformer, query_embeds=queries, encoder_hidden_states=tokens.to(qformer.dtype))
        _, own, most = _watch(qformer, look)
        kept += own * (trained or model.query_tokens.requires_grad)
        largest = max(largest, most)
    # What a layer reads and writes, and as much again that is held around it.
    return VisionBytes(work=2 * largest, kept=kept)


def _without_memory(module: nn.Module) -> nn.Module:
    """A copy on the `meta` device."""
    tensors = (*module.parameters(), *module.buffers())
    places = {id(t): torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors}
    copied = copy.deepcopy(module, places)
    for inner in copied.modules():
        vars(inner).pop("forward", None)  # compiled, and bound to the original
    return copied


def _watch(module: nn.Module, run: Callable) -> tuple[torch.Tensor, int, int]:
    """Run -> the result, all that the innermost modules read and wrote, and the most that one of them did."""
    seen: dict[int, torch.UntypedStorage] = {}
    largest = 0

    def note(_: nn.Module, given: tuple, result: Any) -> None:
        nonlocal largest
        tensors = [item for item in (*given, result) if torch.is_tensor(item)]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
        seen.update(storages)  # held, or another one could get the same number
        largest = max(largest, sum(storage.nbytes() for storage in storages.values()))

    for inner in module.modules():
        if not list(inner.children()):
            inner.register_forward_hook(note)
    with torch.no_grad():
        result = run()
    result = getattr(result, "last_hidden_state", result)
    return result, sum(storage.nbytes() for storage in seen.values()), largest

"""The names of tensors in a folder that `minigpt4 export` wrote, which are those of transformers' classes.

`Blip2ForConditionalGeneration` has a place for every part of a MiniGPT-4 with EVA-ViT-g and a Q-Former. In
`LlavaForConditionalGeneration` the whole vision tower is `models/llava_tower.py`, whose tensors have ours.
"""

import re
from collections.abc import Mapping, Sequence

import torch

from minigpt4.models.qformer import to_original_key

# The beginning of a name in `Blip2ForConditionalGeneration`, and in timm's `Eva`; # stands for a number.
_EVA = (
    ("vision_model.embeddings.class_embedding", "cls_token"),
    ("vision_model.embeddings.position_embedding", "pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "patch_embed.proj."),
    ("vision_model.encoder.layers.#.layer_norm", "blocks.#.norm"),
    ("vision_model.encoder.layers.#.self_attn.projection.", "blocks.#.attn.proj."),
    ("vision_model.encoder.layers.#.self_attn.", "blocks.#.attn."),
    ("vision_model.encoder.layers.#.mlp.", "blocks.#.mlp."),
)
# The other parts; the original's names are those of checkpoints.
_NORM = ("vision_model.post_layernorm.", "ln_vision.")
_PARTS = (
    ("qformer.", "Qformer."),
    ("language_projection.", "llama_proj."),
    ("model.multi_modal_projector.linear_1.", "llama_proj."),
    ("model.vision_tower.encoder.", ""),
    ("model.vision_tower.ln_vision.", "ln_vision."),
    ("model.vision_tower.bridge.", ""),
)
# The identity, which follows from the architecture.
_LEFT_OUT = "model.multi_modal_projector.linear_2."


def to_blip2(encoder: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of timm's `Eva` under transformers' names; the biases of q, k (zero) and v become one."""
    tensors = {}
    for name, tensor in encoder.items():
        if name.endswith("attn.q_bias"):
            value = encoder[name.replace("q_bias", "v_bias")]
            name, tensor = name.replace("q_bias", "qkv.bias"), torch.cat([tensor, 0 * tensor, value])
        if not name.endswith(("v_bias", "k_bias")):
            tensors[_renamed(name, [(eva, stock) for stock, eva in _EVA])] = tensor
    return tensors


def from_blip2(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse; tensors under other names are returned as they are."""
    encoder = {}
    for name, tensor in tensors.items():
        eva = _renamed(name, _EVA)
        if name != eva and name.endswith("qkv.bias"):
            query, _, value = tensor.chunk(3)
            encoder |= {eva.replace("qkv.bias", "q_bias"): query, eva.replace("qkv.bias", "v_bias"): value}
        else:
            encoder[eva] = tensor
    return encoder


def from_stock(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of other parts under the original's names; those of other files are left alone."""
    renamed = {}
    # An export stores the norm apart from the encoder. In one file with it, it belongs to a CLIP.
    is_clip = any(name.startswith("vision_model.encoder.") for name in tensors)
    parts = _PARTS if is_clip else (_NORM, *_PARTS)
    for name, tensor in tensors.items():
        ours = _renamed(name, parts)
        if not name.startswith(_LEFT_OUT):
            renamed[name if ours == name else to_original_key(ours)] = tensor
    return renamed


def _renamed(name: str, names: Sequence[tuple[str, str]]) -> str:
    for old, new in names:
        pattern = "^" + re.escape(old).replace(r"\#", r"(\d+)")
        changed = re.sub(pattern, new.replace("#", r"\1"), name)
        if changed != name:
            return changed
    return name

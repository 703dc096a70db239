"""The names of tensors in a folder that `minigpt4 export` wrote, which are those of transformers' classes.

`Blip2ForConditionalGeneration` has a place for every part of a MiniGPT-4 with EVA-ViT-g and a Q-Former. In
`LlavaForConditionalGeneration` the vision tower is transformers' own CLIP or SigLIP (`export/clip.py`), or
`models/llava_tower.py`, whose tensors have our names.
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
# Likewise in `CLIPVisionModel` and `SiglipVisionModel`, and in timm's `VisionTransformer`.
_CLIP = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding.weight", "pos_embed"),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("pre_layrnorm.", "norm_pre."),
    ("encoder.layers.#.layer_norm", "blocks.#.norm"),
    ("encoder.layers.#.self_attn.out_proj.", "blocks.#.attn.proj."),
    ("encoder.layers.#.self_attn.q_proj.", "blocks.#.attn.qkv."),
    ("encoder.layers.#.mlp.", "blocks.#.mlp."),
    ("post_layernorm.", "norm."),
)
# Where such a tower is in a file of transformers' LLaVA.
CLIP_TOWER = "model.vision_tower.vision_model."
_PROJECTOR = "model.multi_modal_projector."
# The other parts; the original's names are those of checkpoints.
_NORM = ("vision_model.post_layernorm.", "ln_vision.")
_PARTS = (
    ("qformer.", "Qformer."),
    ("language_projection.", "llama_proj."),
    (f"{_PROJECTOR}linear_1.", "llama_proj."),
    ("model.vision_tower.encoder.", ""),
    ("model.vision_tower.ln_vision.", "ln_vision."),
    ("model.vision_tower.bridge.", ""),
)
# What follows from the architecture in the file of the projection: norms, and the projector's second matrix.
_LEFT_OUT = (CLIP_TOWER, f"{_PROJECTOR}linear_2.")
# Its two biases are one.
_BIAS, _SECOND_BIAS = "llama_proj.bias", f"{_PROJECTOR}linear_2.bias"


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


def to_clip(encoder: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of timm's `VisionTransformer` under transformers' names, without its pooling."""
    tensors = {}
    for name, tensor in encoder.items():
        stock = _renamed(name, [(timm, stock) for stock, timm in _CLIP])
        if name.startswith("attn_pool."):
            continue
        if ".qkv." in name:
            names = [stock.replace("q_proj", f"{one}_proj") for one in "qkv"]
            tensors |= zip(names, tensor.chunk(3), strict=True)
        else:
            tensors[stock] = tensor.flatten(0, -2) if name == "pos_embed" else tensor
    if "embeddings.class_embedding" in tensors:
        tensors["embeddings.class_embedding"] = tensors["embeddings.class_embedding"].flatten()
    return tensors


def from_clip(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse."""
    encoder = {}
    for name, tensor in tensors.items():
        timm = _renamed(name, _CLIP)
        if ".q_proj." in name:
            tensor = torch.cat([tensors[name.replace("q_proj", f"{one}_proj")] for one in "qkv"])
        if ".k_proj." not in name and ".v_proj." not in name:
            encoder[timm] = tensor
    for name, axes in (("cls_token", 2), ("pos_embed", 1)):
        if name in encoder:
            encoder[name] = encoder[name][(None,) * axes]
    return encoder


def from_stock(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of other parts under the original's names; those of other files are left alone."""
    has_projector = any(name.startswith(_PROJECTOR) for name in tensors)
    if not has_projector and any(name.startswith(CLIP_TOWER) for name in tensors):
        return from_clip({name.removeprefix(CLIP_TOWER): tensor for name, tensor in tensors.items()})
    renamed = {}
    # An export stores the norm apart from the encoder. In one file with it, it belongs to a CLIP.
    is_clip = any(name.startswith("vision_model.encoder.") for name in tensors)
    parts = _PARTS if is_clip else (_NORM, *_PARTS)
    for name, tensor in tensors.items():
        ours = _renamed(name, parts)
        if not name.startswith(_LEFT_OUT):
            renamed[name if ours == name else to_original_key(ours)] = tensor
    if _BIAS in renamed and _SECOND_BIAS in tensors:
        renamed[_BIAS] = renamed[_BIAS] + tensors[_SECOND_BIAS]
    return renamed


def _renamed(name: str, names: Sequence[tuple[str, str]]) -> str:
    for old, new in names:
        pattern = "^" + re.escape(old).replace(r"\#", r"(\d+)")
        changed = re.sub(pattern, new.replace("#", r"\1"), name)
        if changed != name:
            return changed
    return name

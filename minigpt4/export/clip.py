"""A CLIP or SigLIP tower of timm as the one that transformers has, so that a folder needs nothing of ours.

LLaVA projects the encoder's hidden states as they are. MiniGPT-4 normalises them before, twice: by the
encoder's last norm, and by `ln_vision`. Two more blocks of the encoder do that. A block whose attention is
zero is x + MLP(LN(x)), and an MLP can pass its input on, as gelu(a) - gelu(-a) = a for every kind of GELU.
Where it multiplies by a large number, x is lost in rounding, and what is left is a multiple of LN(x).
"""

from typing import Any

import torch
from accelerate import init_empty_weights
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import AutoModel, CLIPVisionConfig, SiglipVisionConfig

from minigpt4.export.parts import Tensors
from minigpt4.models.bridges import JoinedPatches
from minigpt4.models.encoders.timm_models import TimmEncoder
from minigpt4.models.stock_names import CLIP_TOWER, to_clip
from minigpt4.models.vision_tower import VisionTower

# By how much a block multiplies its norm: what was there before is 1e-6 of that. A power of 2 costs no digit.
GAIN = 2.0**20
NORMS = 2
# Largest difference of the tower's tokens, whose variance is 1, on a test picture.
CLOSE = 1e-3


class NotStock(Exception):
    """Why a tower has no place in transformers' classes."""


def config_of(vision: VisionTower, dtype: torch.dtype) -> CLIPVisionConfig | SiglipVisionConfig:
    """The tower's config, after its tokens were compared.

    Args:
        vision: in float32.
        dtype: in which the folder says that it is loaded.

    Raises:
        NotStock: for every other tower.
    """
    encoder, bridge = vision.encoder, vision.bridge
    vit = encoder.module
    if not (isinstance(encoder, TimmEncoder) and isinstance(vit, VisionTransformer)):
        raise NotStock(f"{encoder.name} is no CLIP or SigLIP of timm")
    if not isinstance(bridge, JoinedPatches) or bridge.together > 1:
        raise NotStock("LLaVA has no place for a Q-Former, or for several patches a token")
    if dtype == torch.float16:
        raise NotStock("transformers' LLaVA can norm the tokens in bfloat16 and float32 only")
    activation = {"GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}
    try:
        block: Any = vit.blocks[0]
        sizes: dict[str, Any] = {
            "hidden_size": encoder.width,
            "intermediate_size": block.mlp.fc1.out_features,
            "num_hidden_layers": len(vit.blocks) + NORMS,
            "num_attention_heads": block.attn.num_heads,
            "image_size": vision.image_size,
            "patch_size": vit.patch_embed.patch_size[0],
            "layer_norm_eps": vit.norm.eps,
            "hidden_act": activation.get(type(block.mlp.act).__name__, "gelu"),
        }
        if encoder.prefix_tokens:
            config = CLIPVisionConfig(**sizes)
        else:
            config = SiglipVisionConfig(**sizes, vision_use_head=False)
        same = _same_tokens(vision, config)
    except (AttributeError, RuntimeError, ValueError) as error:  # another layer, tensor or shape
        raise NotStock(f"{encoder.name} is built otherwise than transformers' CLIP and SigLIP") from error
    if not same:
        raise NotStock(f"{encoder.name} computes otherwise than transformers' CLIP and SigLIP")
    return config


def tower_tensors(vision: VisionTower) -> dict[str, torch.Tensor]:
    """The encoder's own tensors, by their names in a file of transformers'."""
    named = to_clip(dict(vision.encoder.module.named_parameters()))
    return {f"{CLIP_TOWER}{name}": tensor for name, tensor in named.items()}


def norm_tensors(vision: VisionTower) -> dict[str, torch.Tensor]:
    """The blocks behind the encoder that norm; `ln_vision` without its weight and bias."""
    vit: Any = vision.encoder.module
    first, eye = len(vit.blocks), torch.eye(vit.norm.weight.numel())
    one, zero = torch.ones(len(eye)), torch.zeros(len(eye))
    inside = vit.blocks[0].mlp.fc1.out_features
    unused = torch.zeros(inside - 2 * len(eye), len(eye))
    tensors = {}
    for place, (weight, bias) in enumerate([(vit.norm.weight, vit.norm.bias), (one, zero)]):
        block = {f"self_attn.{name}_proj.weight": 0 * eye for name in ("q", "k", "v", "out")}
        block |= {f"self_attn.{name}_proj.bias": zero for name in ("q", "k", "v", "out")}
        block |= {"layer_norm1.weight": one, "layer_norm1.bias": zero}
        block |= {"layer_norm2.weight": weight, "layer_norm2.bias": bias}
        block |= {"mlp.fc1.weight": torch.cat([eye, -eye, unused]), "mlp.fc1.bias": torch.zeros(inside)}
        passed = torch.cat([eye, -eye, unused]).T * GAIN ** (place + 1)
        block |= {"mlp.fc2.weight": passed, "mlp.fc2.bias": zero}
        tensors |= {
            f"{CLIP_TOWER}encoder.layers.{first + place}.{name}": tensor for name, tensor in block.items()
        }
    return tensors


def projector(vision: VisionTower, projection: nn.Linear) -> dict[str, torch.Tensor]:
    """LLaVA's projector: the projection with `ln_vision`'s weight and bias, and a layer that divides."""
    norm, eye = vision.ln_vision, torch.eye(projection.out_features)
    return {
        "linear_1.weight": projection.weight * norm.weight,
        "linear_1.bias": torch.zeros(len(eye)),
        "linear_2.weight": eye / GAIN**NORMS,
        "linear_2.bias": projection.bias + projection.weight @ norm.bias,
    }


@torch.no_grad()
def _same_tokens(vision: VisionTower, config: CLIPVisionConfig | SiglipVisionConfig) -> bool:
    """Whether transformers' tower makes the tokens of ours, of a test picture."""
    with init_empty_weights(include_buffers=False):
        tower: Any = AutoModel.from_config(config)
    tensors: Tensors = tower_tensors(vision) | norm_tensors(vision)
    inside = getattr(tower, "vision_model", tower)  # transformers 5.4 wraps it
    inside.load_state_dict({k.removeprefix(CLIP_TOWER): v for k, v in tensors.items()}, assign=True)
    tower.eval()
    size = vision.image_size
    picture = torch.linspace(-1, 1, 3 * size**2).sin().view(1, 3, size, size)
    theirs = tower(picture, output_hidden_states=True).hidden_states[-1][:, vision.encoder.prefix_tokens :]
    theirs = theirs / GAIN**NORMS * vision.ln_vision.weight + vision.ln_vision.bias
    return torch.allclose(theirs, vision(picture), rtol=0, atol=CLOSE)

"""A small model of each family (module) of timm, and what our encoder makes of a picture with it.

    python -m tests.support.timm_families

prints the table of docs/encoders.md.
"""

import inspect
import logging
from collections import defaultdict

import timm
import torch
from torch import nn

from minigpt4.common.errors import ConfigError
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.encoders.build import build_encoder

# The smallest, where it is not the first of its module by name, or that one is large.
SMALL_MODELS = """
byoanet:halonet_h1 byobnet:test_byobnet cait:cait_xxs24_224 coat:coat_tiny convit:convit_tiny
convmixer:convmixer_768_32 convnext:test_convnext crossvit:crossvit_tiny_240 cspnet:cs3darknet_focus_s
cspnext:cspnext_tiny deit:deit_tiny_patch16_224 edgenext:edgenext_xx_small efficientnet:mobilenetv2_035
eva:eva02_tiny_patch14_224 focalnet:focalnet_tiny_srf gcvit:gcvit_xxtiny ghostnet:ghostnet_050
hgnet:hgnetv2_b0 hiera:hiera_tiny_224 hieradet_sam2:sam2_hiera_tiny hrnet:hrnet_w18_small iformer:iformer_t
inception_next:inception_next_atto lcnetv2:lcnetv2_small mambaout:test_mambaout maxxvit:maxvit_pico_rw_256
metaformer:poolformerv2_s12 mlp_mixer:gmlp_ti16_224 mobilenetv3:lcnet_035 mobilevit:mobilevit_xxs
mvitv2:mvitv2_tiny nest:nest_tiny nextvit:nextvit_small nfnet:nf_regnet_b0 pit:pit_ti_224 resnest:resnest14d
resnet:resnet10t resnetv2:resnetv2_18 rexnet:rexnet_100 sequencer:sequencer2d_s sknet:skresnet18
starnet:starnet_s050 swiftformer:swiftformer_xs swin_transformer:swin_tiny_patch4_window7_224
swin_transformer_v2:swinv2_tiny_window8_256 swin_transformer_v2_cr:swinv2_cr_tiny_224
tiny_vit:tiny_vit_5m_224 tresnet:tresnet_m twins:twins_svt_small visformer:visformer_tiny
vision_transformer:test_vit vision_transformer_hybrid:vit_tiny_r_s16_p8_224
vision_transformer_relpos:test_vit_relpos vitamin:vitamin_small_224 volo:volo_d1_224
vovnet:ese_vovnet19b_slim_dw xception_aligned:xception41p xcit:xcit_nano_12_p8_224
"""
SMALL = dict(pair.split(":") for pair in SMALL_MODELS.split())
NARROW = {"embed_dim": 64, "depth": 2, "num_heads": 2}
KWARGS = dict.fromkeys(("beit", "deepseek_vit", "gemma4_vit", "qwen3_vit", "naflexvit"), NARROW)
SIZES = defaultdict(
    lambda: 64,
    byoanet=256,
    crossvit=240,
    csatv2=128,
    deepseek_vit=56,
    efficientformer=224,
    eva=56,
    efficientvit_msra=128,
    levit=128,
    selecsls=128,
    shvit=128,
    **dict.fromkeys(("inception_resnet_v2", "inception_v3", "inception_v4"), 160),
)


def model_of(module: str) -> str:
    """The model that stands for a module."""
    there = timm.list_models(module=module)
    return SMALL[module] if SMALL.get(module) in there else there[0]


def build(module: str, **more: object) -> BaseEncoder:
    """A random encoder of a module, at its size in `SIZES`, in evaluation mode."""
    torch.manual_seed(0)
    kwargs = KWARGS.get(module, {}) | more
    return build_encoder(model_of(module), SIZES[module], weights="random", kwargs=kwargs).eval()


def layout(module: str) -> str:
    """How the network of a module hands out its tokens, or why it is refused."""
    try:
        encoder = build(module)
    except ConfigError as error:
        for words, why in {
            "several feature maps": "several maps",
            "no grid of patches": "no grid of patches",
        }.items():
            if words in str(error):
                return f"refused: {why}"
        raise
    with torch.no_grad():
        features = encoder.module.forward_features(picture(module))
    if features.ndim == 3:
        return f"tokens, {encoder.prefix_tokens} before the patches"
    return "map, channels first" if features.shape[1] == encoder.width else "map, channels last"


def picture(module: str) -> torch.Tensor:
    """[1, 3, side, side] of noise."""
    side = SIZES[module]
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def timms_own(network: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """timm's second way: the last map [N, C, H, W] and the tokens before it; None where it has none."""
    ask = getattr(network, "forward_intermediates", None)
    if ask is None or type(network).__name__ in ("Hiera", "HieraDet"):  # theirs are not normalised
        return None
    found = ask(images, indices=1, norm=True, intermediates_only=True)[-1]
    if "return_prefix_tokens" in inspect.signature(ask).parameters and network.num_prefix_tokens:
        options = {"indices": 1, "norm": True, "intermediates_only": True, "return_prefix_tokens": True}
        return ask(images, **options)[-1]
    return found, None


def table(modules: list[str]) -> list[str]:
    """The rows of docs/encoders.md: layout, then the modules that have it."""
    found = defaultdict(list)
    for module in modules:
        found[layout(module)].append(module)
    return [
        f"| {kind} | {', '.join(f'`{name}`' for name in sorted(names))} |"
        for kind, names in sorted(found.items())
    ]


if __name__ == "__main__":
    logging.disable()
    print("\n".join(table(timm.list_modules())))

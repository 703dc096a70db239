"""One small model of each family of timm: our patches are timm's own, or it is refused at load."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.drop import DropPath

from minigpt4.common.errors import ConfigError
from minigpt4.models.encoders.build import build_encoder
from minigpt4.models.execution import recompute_blocks
from tests.support.timm_families import build, layout, picture, timms_own

# One of each layout; the others take a minute.
QUICK = {
    "mambaout",
    "byobnet",
    "vision_transformer",
    "vision_transformer_relpos",
    "pit",
    "crossvit",
    "densenet",
}
MODULES = [
    pytest.param(module, marks=[] if module in QUICK else pytest.mark.slow) for module in timm.list_modules()
]
# After the last map, these have a layer more, or scale it.
NO_SECOND_WAY = {"efficientnet", "fastvit", "ghostnet", "hrnet", "mobilenetv5", "nfnet", "repghost", "rexnet"}


def documented() -> dict[str, str]:
    """Module -> its row in docs/encoders.md."""
    rows = re.findall(r"^\| ([^|`]+) \| (`.*`) \|$", Path("docs/encoders.md").read_text(), re.M)
    return {module: kind for kind, modules in rows for module in re.findall(r"`(\w+)`", modules)}


@pytest.mark.parametrize("module", MODULES)
@torch.no_grad()
def test_timm_family_gives_timms_own_patches_or_is_refused(module: str) -> None:
    kind = layout(module)
    assert documented()[module] == kind
    if kind.startswith("refused"):
        with pytest.raises(ConfigError, match=r"^model\.vit_model '\w+' (makes|cannot|outputs)") as caught:
            build(module)
        assert "\n" not in str(caught.value)
        return
    encoder, images = build(module), picture(module)
    tokens, features = encoder(images), encoder.module.forward_features(images)
    prefix, side = encoder.prefix_tokens, round(encoder.patches**0.5)
    assert tokens.shape == (1, prefix + side**2, encoder.width)
    assert encoder.mean == tuple(encoder.module.pretrained_cfg["mean"])
    for row in range(side):
        for column in range(side):
            token = tokens[:, prefix + row * side + column]
            if kind == "map, channels first":
                assert torch.equal(token, features[:, :, row, column])
            elif kind == "map, channels last":
                assert torch.equal(token, features[:, row, column])
    own = timms_own(encoder.module, images)
    if own is not None and module not in NO_SECOND_WAY:
        patches, before = own
        torch.testing.assert_close(tokens[:, prefix:], patches.flatten(2).mT, rtol=0, atol=1e-4)
        if before is not None:
            torch.testing.assert_close(tokens[:, :prefix], before, rtol=0, atol=1e-4)


@torch.no_grad()
def test_timm_class_and_register_tokens_stand_before_the_patches() -> None:
    """Four registers and a class token: what changes with a corner of the picture is that corner's patch."""
    torch.manual_seed(0)
    sizes = {"embed_dim": 64, "depth": 2, "num_heads": 2}
    encoder = build_encoder("vit_small_patch14_reg4_dinov2", 56, weights="random", kwargs=sizes).eval()
    assert (encoder.prefix_tokens, encoder.patches) == (5, 16)
    picture = torch.zeros(1, 3, 56, 56)
    picture[:, :, :14, 42:] = 1
    change = (encoder(picture) - encoder(torch.zeros(1, 3, 56, 56)))[0].norm(dim=-1)
    assert change.argmax() == 5 + 3


def test_timm_batch_norms_do_not_learn_from_the_picture_that_is_looked_at() -> None:
    encoder = build_encoder("test_byobnet", 64, weights="random")
    means = [b for name, b in encoder.named_buffers() if name.endswith("running_mean")]
    assert len(means) > 5 and not any(mean.any() for mean in means)
    assert encoder.training


@pytest.mark.parametrize(
    ("model", "size", "words"),
    [
        ("halonet_h1", 64, "cannot encode pictures of model.image_size 64 (AssertionError)"),
        (
            "efficientformer_l1",
            160,
            "cannot encode pictures of model.image_size 160 (RuntimeError: The size of",
        ),
        (
            "inception_v3",
            64,
            "cannot encode pictures of model.image_size 64 (RuntimeError: Calculated padded",
        ),
        ("volo_d1_224", 64, "makes 17 tokens of a picture of 64 pixels, beside 0 for the whole"),
        ("resnet10t", 32, "makes 1 tokens of a picture of 32 pixels"),
    ],
)
def test_timm_encoder_that_makes_no_patches_is_refused_at_load(model: str, size: int, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^model.vit_model '{model}' {re.escape(words)}") as caught:
        build_encoder(model, size, weights="random")
    assert "\n" not in str(caught.value)


def test_timm_weights_that_are_not_finite_are_refused_at_load(tmp_path: Path) -> None:
    network = timm.create_model("test_byobnet", pretrained=False)
    network.stem.conv.weight.data[0] = float("nan")
    torch.save(network.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(ConfigError, match=r"torch\.float32 that are not finite.*model\.vit_precision"):
        build_encoder("test_byobnet", 64, weights=str(tmp_path / "nan.pth"))


def test_timm_stochastic_depth_is_off_unless_asked_for() -> None:
    name = "swin_tiny_patch4_window7_224"  # 0.1 by default
    for rate, highest in ((0.0, 0.0), (0.2, 0.2)):
        encoder = build_encoder(name, 64, weights="random", drop_path_rate=rate)
        rates = [module.drop_prob for module in encoder.modules() if isinstance(module, DropPath)]
        assert len(rates) > 4 and max(rates) == pytest.approx(highest)


@pytest.mark.parametrize(("size", "unseen"), [(224, None), (64, ""), (72, "the last 8 pixels of each row")])
def test_timm_vit_at_another_size_than_it_was_trained_at_is_said(
    tmp_path: Path, caplog, size, unseen
) -> None:
    sizes = {"embed_dim": 64, "depth": 1, "num_heads": 2}
    torch.save(timm.create_model("vit_tiny_patch16_224", **sizes).state_dict(), tmp_path / "vit.pth")
    build_encoder("vit_tiny_patch16_224", size, weights=str(tmp_path / "vit.pth"), kwargs=sizes)
    said = [
        record.getMessage()
        for record in caplog.records
        if "was trained on pictures of" in record.getMessage()
    ]
    assert len(said) == (unseen is not None)
    assert all(f"model.image_size is {size}" in line and "224" in line and unseen in line for line in said)


@torch.no_grad()
def test_last_stages_are_joined_to_the_patches() -> None:
    name, images = "tf_efficientnet_lite0", torch.randn(2, 3, 64, 64)
    joined = build_encoder(name, 64, weights="random", kwargs={"stages": 2}).eval()
    plain = build_encoder(name, 64, weights="random").eval()
    plain.load_state_dict(joined.state_dict())
    second = timm.create_model(name, features_only=True, out_indices=(3, 4)).eval()
    second.load_state_dict(joined.module.state_dict(), strict=False)

    tokens, (coarse, fine) = joined(images), second(images)[::-1]
    assert (joined.width, joined.patches, coarse.shape[1], fine.shape[1]) == (1280 + 112 + 320, 4, 320, 112)
    fine = fine.unflatten(2, (2, 2)).unflatten(4, (2, 2)).mean((3, 5))  # of 2 x 2 places each
    parts = [plain(images), *(one.flatten(2).transpose(1, 2) for one in (fine, coarse))]
    normal = [
        (p - p.mean(2, keepdim=True)) / (p.var(2, keepdim=True, correction=0) + 1e-5).sqrt() for p in parts
    ]
    torch.testing.assert_close(tokens, torch.cat(normal, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vit_tiny_patch16_224", 2),
        ("tf_efficientnet_lite0", 9),
        ("tf_efficientnet_lite0", -1),
        ("tf_efficientnet_lite0", "2"),
        ("tf_efficientnet_lite0", True),
    ],
)
def test_stages_that_cannot_be_joined_are_refused(name: str, stages: Any) -> None:
    with pytest.raises(ConfigError, match=rf"model\.vit_kwargs.*stages.*{stages}"):
        build_encoder(name, 224, weights="random", kwargs={"stages": stages})


def backward(encoder: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The gradient of the first weight, and how many tensors were kept for it."""
    kept, first = [], next(encoder.parameters())
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(0), x)[1], lambda x: x):
        encoder(images).square().mean().backward()
    gradient, first.grad = first.grad, None
    return gradient, len(kept)


@pytest.mark.parametrize("name", ["convnext_atto", "regnety_002", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("stages", [0, 2])
def test_stages_of_convolutional_networks_are_recomputed(name: str, stages: int) -> None:
    encoder = build_encoder(name, 64, weights="random", kwargs={"stages": stages} if stages else {}).eval()
    images = torch.randn(1, 3, 64, 64)
    usual, kept = backward(encoder, images)
    recompute_blocks(encoder.blocks(), random=False)
    again, fewer = backward(encoder, images)
    torch.testing.assert_close(usual, again, rtol=1e-4, atol=1e-6)
    assert fewer < kept / 2

"""The vision tower, built of plain arguments, and what stands in for it where features are cached."""

import numpy as np
import pytest
import torch

from minigpt4.common.errors import ConfigError
from minigpt4.models import vision_tower
from minigpt4.models.bridges import JoinedPatches
from minigpt4.models.encoders.eva_clip_g import EvaClipG
from minigpt4.models.image_tokens import TokenShape
from minigpt4.models.qformer import QFormerBridge, build_qformer
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.processors.blip_processors import Blip2ImageEvalProcessor

EVA = {"patch_size": 14, "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
PICTURES = torch.arange(2 * 3 * 28 * 28).remainder(251).to(torch.uint8).view(2, 3, 28, 28)


def eva() -> EvaClipG:
    torch.manual_seed(0)
    return EvaClipG("eva_clip_g", 28, **EVA)


def qformer_tower(*, frozen: bool = True, trained_bridge: bool = False) -> VisionTower:
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    encoder = eva()
    bridge = QFormerBridge(*build_qformer(5, 16, sizes), frozen=not trained_bridge)
    return VisionTower(encoder, bridge, image_size=28, frozen=frozen)


def test_vision_tower_with_joined_patches() -> None:
    tower = VisionTower(eva(), JoinedPatches(4, 16, together=2, prefix_tokens=1), image_size=28)
    tokens = tower(PICTURES)
    assert tower.token_shape == TokenShape(count=2, width=32, vit_width=16)
    patches = tower.ln_vision(tower.encoder(tower.normalized(PICTURES)))[:, 1:]
    assert torch.equal(tokens[:, 0], patches[:, :2].flatten(1))
    assert torch.equal(tokens[:, 1], patches[:, 2:].flatten(1))


def test_tokens_are_averaged_with_their_neighbours() -> None:
    bridge = JoinedPatches(4, 16, together=1, prefix_tokens=1)
    every = VisionTower(eva(), bridge, image_size=28)(PICTURES)
    tower = VisionTower(eva(), bridge, image_size=28, tokens=2)
    assert tower.token_shape == TokenShape(count=2, width=16, vit_width=16)
    expected = torch.stack([every[:, :2].mean(1), every[:, 2:].mean(1)], dim=1)
    torch.testing.assert_close(tower(PICTURES), expected)
    with pytest.raises(ConfigError, match=r"tokens_per_frame is 3, which does not divide .* 4 tokens"):
        VisionTower(eva(), bridge, image_size=28, tokens=3)


def test_joined_patches_that_cannot_be_shared_out() -> None:
    with pytest.raises(ConfigError, match=r"model.patches_per_token is 3, which does not divide .* 4 tokens"):
        JoinedPatches(4, 16, together=3)


def test_vision_tower_with_a_qformer() -> None:
    tower = qformer_tower()
    assert tower.token_shape == TokenShape(count=5, width=24, vit_width=16)
    tokens = tower(PICTURES)
    assert tokens.shape == (2, 5, 24)
    assert torch.equal(tower(tokens), tokens)  # what was cached is passed on


@pytest.mark.parametrize(("frozen", "shares"), [(True, [2, 2, 1]), (False, [5])])
def test_a_frozen_encoder_on_a_cpu_looks_at_a_few_pictures_at_a_time(frozen, shares, monkeypatch) -> None:
    pictures = torch.cat([PICTURES, PICTURES.flip(1), PICTURES[:1].flip(2)])
    tower = qformer_tower(frozen=frozen).eval()
    whole = tower(pictures)
    seen: list[int] = []
    tower.encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    monkeypatch.setattr(vision_tower, "PIXELS_AT_ONCE", 2 * 28 * 28 + 1)
    torch.testing.assert_close(tower(pictures), whole)
    assert seen == shares


@pytest.mark.parametrize(
    ("frozen", "trained_bridge", "modes"),
    [
        (True, False, (False, False, False)),
        (False, False, (True, True, False)),
        (True, True, (False, False, True)),
    ],
)
def test_vision_tower_trains_what_is_not_frozen(frozen, trained_bridge, modes) -> None:
    tower = qformer_tower(frozen=frozen, trained_bridge=trained_bridge).train()
    assert (tower.encoder.training, tower.ln_vision.training, tower.bridge.Qformer.training) == modes
    parts = (tower.encoder, tower.ln_vision, tower.bridge)
    assert tuple({p.requires_grad for p in part.parameters()} for part in parts) == tuple({m} for m in modes)
    assert tower(PICTURES).requires_grad == any(modes)
    with torch.no_grad():
        assert not tower(PICTURES).requires_grad
    assert not any(part.training for part in tower.eval().modules())


def test_vision_tower_normalises_pixels_with_its_encoders_statistics() -> None:
    tower = qformer_tower()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (tower.encoder.mean, tower.encoder.std))
    normalised = (PICTURES / 255 - mean) / std
    torch.testing.assert_close(tower(PICTURES), tower(normalised), rtol=0, atol=1e-5)
    pixels = PICTURES[0].permute(1, 2, 0).numpy()
    assert np.array_equal(tower.to_pixels(normalised[0]), pixels)
    assert np.array_equal(tower.to_pixels(PICTURES[0]), pixels)


def test_vision_tower_says_where_a_processor_normalises_otherwise(caplog) -> None:
    tower = qformer_tower()
    for mean, std in ((None, None), (list(tower.encoder.mean), None), (None, list(tower.encoder.std))):
        tower.warn_of_other_statistics(Blip2ImageEvalProcessor(28, mean, std), "here")
    assert not caplog.records
    tower.warn_of_other_statistics(
        Blip2ImageEvalProcessor(28, [0.5, 0.5, 0.5]), "datasets.a.vis_processor.train"
    )
    (record,) = caplog.records
    for fact in ("datasets.a.vis_processor.train", "mean [0.5, 0.5, 0.5]", "eva_clip_g", "0.48145466"):
        assert fact in record.getMessage()
    tower.encoder.mean = tower.encoder.std = (0.5, 0.5, 0.5)  # a std that is not given is CLIP's, then
    caplog.clear()
    tower.warn_of_other_statistics(Blip2ImageEvalProcessor(28, [0.5, 0.5, 0.5]), "here")
    assert "std [0.26862954" in caplog.text and "mean" not in caplog.text.split("leave")[0]


def test_cached_vision_passes_features_on_and_refuses_pixels() -> None:
    cached = CachedVision(TokenShape(5, 24, 16), name="eva_clip_g", image_size=28)
    features = torch.ones(2, 5, 24)
    assert cached(features) is features
    for look in (cached, cached.to_pixels):
        with pytest.raises(ValueError, match="built for cached features"):
            look(PICTURES)
    assert not list(cached.parameters())

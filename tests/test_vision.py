"""Encoders other than EVA: any timm model, its own statistics, and weights ported under other names."""

from pathlib import Path

import pytest
import timm
import torch

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.models.vision import build_vision_encoder, image_statistics, visual_tokens
from tests.conftest import build_golden_model

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model(LITE0, pretrained=False).eval()


def ported(classifier: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The same tensors as another package has them: other names, same order, the classifier last."""
    return {
        f"_layer{i}.{name.rsplit('.', 1)[-1]}": value
        for i, (name, value) in enumerate(classifier.state_dict().items())
    }


def test_ported_weights_are_matched_by_order(classifier, tmp_path: Path) -> None:
    torch.save(ported(classifier), tmp_path / "lite0.pth")
    encoder = build_vision_encoder(LITE0, 64, vit_weights=str(tmp_path / "lite0.pth")).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = classifier.forward_features(image)
        tokens = visual_tokens(encoder, image)
    assert features.shape == (2, 1280, 2, 2)
    # The feature map row by row.
    assert torch.equal(tokens[:, 1], features[:, :, 0, 1])
    assert torch.equal(tokens[:, 2], features[:, :, 1, 0])
    assert image_statistics(encoder) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_weights_of_another_network_are_refused(classifier, tmp_path: Path) -> None:
    tensors = ported(classifier)
    names = list(tensors)
    swapped = {names[1]: tensors[names[2]], names[2]: tensors[names[1]]}  # weight and bias, equal shapes
    order = [names[0], names[2], names[1], *names[3:]]
    torch.save({name: (tensors | swapped)[name] for name in order}, tmp_path / "swapped.pth")
    with pytest.raises(CheckpointError, match="neither names nor order of its tensors fit the encoder"):
        build_vision_encoder(LITE0, 64, vit_weights=str(tmp_path / "swapped.pth"))
    torch.save(dict(list(tensors.items())[:10]), tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="10 tensors, the encoder has 294"):
        build_vision_encoder(LITE0, 64, vit_weights=str(tmp_path / "short.pth"))


def test_a_convnet_in_the_whole_model(classifier, tmp_path: Path) -> None:
    torch.save(ported(classifier), tmp_path / "lite0.pth")
    model = build_golden_model(
        vit_model=LITE0,
        vit_weights=str(tmp_path / "lite0.pth"),
        vit_kwargs=None,
        image_size=64,
        has_qformer=False,
        patches_per_token=1,
        ckpt=None,
    )
    assert model.llama_proj.weight.shape == (64, 1280)
    assert model.image_mean.tolist() == [0.5, 0.5, 0.5]
    embeds, mask = model.encode_img(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert embeds.shape == (2, 4, 64) and mask.shape == (2, 4)
    loss = model({"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "answer": ["a dog", "car"]})["loss"]
    loss.backward()
    assert model.llama_proj.weight.grad.abs().sum() > 0


def test_a_model_timm_does_not_know_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.vit_model 'tf_efficientnet_lite99'"):
        build_vision_encoder("tf_efficientnet_lite99", 64, vit_weights="x.pth")

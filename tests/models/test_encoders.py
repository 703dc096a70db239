"""Encoders: EVA-CLIP-g, any model of timm, and one of transformers in a file outside the package."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.common.registry import registry
from minigpt4.models.encoders.base_encoder import BaseEncoder
from minigpt4.models.encoders.build import build_encoder, encoder_class, published_weights
from minigpt4.models.encoders.eva_clip_g import EvaClipG
from minigpt4.models.encoders.timm_models import TimmEncoder
from minigpt4.models.execution import recompute_blocks
from minigpt4.models.image_tokens import TokenShape
from tests.support.clip_encoder import ClipEncoder
from tests.support.golden import build_golden_model, golden_model_config

LITE0 = "tf_efficientnet_lite0"
VIT = "vit_tiny_patch16_224"
VIT_SIZES = {"embed_dim": 64, "depth": 2, "num_heads": 2}
CLIP = "tests.support.clip_encoder:ClipEncoder"
CLIP_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 14,
}


class Squares(BaseEncoder):
    """A patch is a linear map of 28 x 28 pixels."""

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__(name, image_size)
        self.module, self.width = torch.nn.Conv2d(3, 8, 28, 28), 8

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.module(images).flatten(2).transpose(1, 2)


@pytest.fixture
def squares(monkeypatch) -> None:
    """It is registered for one test."""
    monkeypatch.setitem(registry.tables["encoder"].classes, "squares", Squares)


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


def test_timm_ported_weights_are_matched_by_order(classifier, tmp_path: Path) -> None:
    torch.save(ported(classifier), tmp_path / "lite0.pth")
    encoder = build_encoder(LITE0, 64, weights=str(tmp_path / "lite0.pth")).eval()
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = classifier.forward_features(image)
        tokens = encoder(image)
    assert features.shape == (2, 1280, 2, 2)
    # The feature map row by row.
    assert torch.equal(tokens[:, 1], features[:, :, 0, 1])
    assert torch.equal(tokens[:, 2], features[:, :, 1, 0])
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)


def test_timm_weights_of_another_network_are_refused(classifier, tmp_path: Path) -> None:
    tensors = ported(classifier)
    names = list(tensors)
    swapped = {names[1]: tensors[names[2]], names[2]: tensors[names[1]]}  # weight and bias, equal shapes
    order = [names[0], names[2], names[1], *names[3:]]
    torch.save({name: (tensors | swapped)[name] for name in order}, tmp_path / "swapped.pth")
    with pytest.raises(CheckpointError, match="neither names nor order of its tensors fit the encoder"):
        build_encoder(LITE0, 64, weights=str(tmp_path / "swapped.pth"))
    torch.save(dict(list(tensors.items())[:10]), tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match="10 tensors, the encoder has 294"):
        build_encoder(LITE0, 64, weights=str(tmp_path / "short.pth"))


def test_timm_convnet_in_the_whole_model(classifier, tmp_path: Path) -> None:
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
    assert model.vision.image_mean.tolist() == [0.5, 0.5, 0.5]
    embeds, mask = model.encode_img(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert embeds.shape == (2, 4, 64) and mask.shape == (2, 4)
    loss = model({"image": torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "answer": ["a dog", "car"]})["loss"]
    loss.backward()
    assert model.llama_proj.weight.grad.abs().sum() > 0


def test_encoder_class_by_name_import_path_and_timm(squares) -> None:
    assert encoder_class("eva_clip_g") is EvaClipG
    assert encoder_class(VIT) is TimmEncoder
    assert encoder_class(CLIP) is ClipEncoder
    assert encoder_class("squares") is Squares
    squares = build_encoder("squares", 56, weights="random")
    assert squares(torch.zeros(2, 3, 56, 56)).shape == (2, 4, 8)
    for wrong, right in (("tf_efficientnet_lite99", "tf_efficientnet_lite"), ("eva_clip", "eva_clip_g")):
        with pytest.raises(
            ConfigError, match=rf"model\.vit_model '{wrong}'.*eva_clip_g.*did you mean '{right}"
        ):
            encoder_class(wrong)
    with pytest.raises(ConfigError, match=r"tests\.support\.clip_encoder.*ClipEncode"):
        encoder_class(CLIP[:-1])


def test_published_weights_of_each_kind(squares) -> None:
    assert published_weights("eva_clip_g").endswith("/eva_vit_g.pth")
    assert published_weights(VIT) == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert published_weights(CLIP) == "openai/clip-vit-base-patch32"
    with pytest.raises(ConfigError, match=r"model\.vit_weights: no weights of squares are published"):
        published_weights("squares")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A whole CLIP as the hub holds it: text and vision halves in one file."""
    torch.manual_seed(0)
    vision = CLIP_SIZES | {"image_size": 56}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(vision_config=vision, text_config=text | {"vocab_size": 50})).save_pretrained(folder)
    return folder


def test_clip_of_transformers_gives_the_librarys_tokens(clip_folder: Path) -> None:
    ours = build_encoder(CLIP, 56, weights=str(clip_folder), kwargs=CLIP_SIZES).eval()
    theirs = CLIPVisionModel.from_pretrained(clip_folder).eval()
    image = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        tokens = ours(image)
        assert torch.equal(tokens, theirs(image).last_hidden_state)
    assert tokens.shape == (2, 1 + 16, 32)
    assert (ours.width, ours.prefix_tokens, ours.count_patches(56)) == (32, 1, 16)
    assert len(ours.blocks()) == 2


def test_clip_of_transformers_is_one_short_file() -> None:
    assert len(Path("tests/support/clip_encoder.py").read_text().splitlines()) <= 40


def test_clip_of_transformers_in_the_whole_model(clip_folder: Path) -> None:
    """Named in the YAML alone: without Q-Former and trained; its checkpoint has the original's prefix."""
    model = build_golden_model(
        vit_model=CLIP,
        vit_weights=str(clip_folder),
        vit_kwargs=CLIP_SIZES,
        has_qformer=False,
        freeze_vit=False,
        use_grad_checkpoint=True,
        ckpt=None,
    )
    assert model.token_shape == TokenShape(count=4, width=128, vit_width=32)
    image = torch.zeros(2, 3, 56, 56, dtype=torch.uint8)
    model({"image": image, "answer": ["a dog", "car"]})["loss"].backward()
    # Older versions of transformers have `vision_model.` in front.
    (name,) = (n for n, _ in model.visual_encoder.named_parameters() if n.endswith("layers.0.mlp.fc1.weight"))
    layer = model.visual_encoder.get_parameter(name)
    assert layer.grad.abs().sum() > 0
    assert f"visual_encoder.{name}" in model.trainable_state_dict()


def test_build_encoder_kwargs_that_it_does_not_take(squares) -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key model\.vit_kwargs\.embed_dimm; did you mean 'embed_dim'"
    ):
        build_encoder("eva_clip_g", 56, kwargs={"embed_dimm": 3}, weights="random")
    with pytest.raises(ConfigError, match=r"model\.vit_model 'resnet18' with vit_kwargs .*embed_dim"):
        build_encoder("resnet18", 56, kwargs={"embed_dim": 3}, weights="random")
    with pytest.raises(ConfigError, match=r"model\.vit_model 'squares' .*drop_path_rate"):
        build_encoder("squares", 56, drop_path_rate=0.1, weights="random")


def test_random_weights_must_be_trained() -> None:
    torch.manual_seed(0)
    random = {"vit_weights": "random", "has_qformer": False, "ckpt": None}
    with pytest.raises(ConfigError, match=r"model\.vit_weights is random, but model\.freeze_vit is True"):
        build_golden_model(**random)
    model = build_golden_model(**random, freeze_vit=False)
    block = model.visual_encoder.blocks[0].mlp.fc1.weight
    assert block.requires_grad and block.std() > 0


def test_recompute_blocks_of_an_encoder_changes_nothing(vit_file: Path) -> None:
    gradients = []
    for recompute in (False, True):
        encoder = build_encoder(VIT, 32, weights=str(vit_file), kwargs=VIT_SIZES)
        if recompute:
            recompute_blocks(encoder.blocks(), random=True)
        encoder(torch.ones(1, 3, 32, 32)).sum().backward()
        gradients.append(encoder.module.blocks[0].attn.qkv.weight.grad)
    assert torch.equal(*gradients)


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory) -> Path:
    """A ViT with its classifier, as published for 224 pixels."""
    torch.manual_seed(0)
    vit = timm.create_model(VIT, pretrained=False, **VIT_SIZES)
    path = tmp_path_factory.mktemp("vit") / "vit.pth"
    torch.save(vit.state_dict(), path)
    return path


@pytest.mark.parametrize("size", [224, 64])
@torch.no_grad()
def test_timm_vit_at_its_own_and_another_size(vit_file: Path, size: int) -> None:
    """The second way: timm's own loader fits the position embeddings."""
    ours = build_encoder(VIT, size, weights=str(vit_file), kwargs=VIT_SIZES).eval()
    overlay = {"file": str(vit_file)}
    theirs = timm.create_model(
        VIT, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=size, **VIT_SIZES
    ).eval()
    image = torch.rand(2, 3, size, size)
    tokens = ours(image)
    assert tokens.shape == (2, 1 + (size // 16) ** 2, 64)
    torch.testing.assert_close(tokens, theirs.forward_features(image), rtol=0, atol=1e-6)


def test_timm_classifier_alone_is_left_out(vit_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(vit_file, weights_only=True)
    assert {"head.weight", "head.bias"} <= tensors.keys()
    torch.save(tensors | {"heads.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"unexpected key 'heads.weight'"):
        build_encoder(VIT, 224, weights=str(tmp_path / "more.pth"), kwargs=VIT_SIZES)
    torch.save({k: v for k, v in tensors.items() if k != "cls_token"}, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match="the key 'cls_token' is missing"):
        build_encoder(VIT, 224, weights=str(tmp_path / "less.pth"), kwargs=VIT_SIZES)


def test_timm_vit_behind_a_new_qformer(vit_file: Path, tmp_path: Path) -> None:
    """BLIP-2's Q-Former fits EVA's width only; a new one begins with random weights and must be trained."""
    other = {"vit_model": VIT, "vit_weights": str(vit_file), "vit_kwargs": VIT_SIZES}
    sizes = VIT_SIZES | {"embed_dim": 128}
    wide = timm.create_model(VIT, pretrained=False, **sizes).state_dict()
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"an encoder 64 wide, model\.vit_model is 128 wide"):
        build_golden_model(ckpt=None, vit_model=VIT, vit_weights=str(tmp_path / "wide.pth"), vit_kwargs=sizes)
    with pytest.raises(ConfigError, match=r"q_former_model is random, .*model\.freeze_qformer is True"):
        build_golden_model(ckpt=None, q_former_model="random", **other)
    new = other | {"q_former_model": "random", "freeze_qformer": False}
    model = build_golden_model(ckpt=None, **new)
    assert model.vision.image_mean.tolist() == [0.5, 0.5, 0.5]  # this ViT's own, not CLIP's
    image = torch.zeros(2, 3, 56, 56, dtype=torch.uint8)
    model({"image": image, "answer": ["a dog", "car"]})["loss"].backward()
    assert model.query_tokens.grad.abs().sum() > 0

    path = tmp_path / "c.pth"
    torch.save({"model": model.trainable_state_dict()}, path)
    again = build_golden_model(ckpt=str(path), **new)
    assert torch.equal(again.query_tokens, model.query_tokens)
    projection = {k: v for k, v in model.trainable_state_dict().items() if k.startswith("llama_proj")}
    torch.save({"model": projection}, path)
    with pytest.raises(CheckpointError, match=r"the key 'Qformer\..*' and \d+ more is missing"):
        build_golden_model(ckpt=str(path), **new)


def test_eva_image_size_is_a_multiple_of_the_patches() -> None:
    with pytest.raises(
        ConfigError, match=r"model.image_size is 60, .* not a multiple .* patches of 14 pixels"
    ):
        build_golden_model(image_size=60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_build_encoder_weights_go_straight_into_their_dtype(dtype: torch.dtype) -> None:
    config = golden_model_config()
    encoder = build_encoder(
        "eva_clip_g", 56, weights=config["vit_weights"], kwargs=config["vit_kwargs"], dtype=dtype
    )
    recorded = torch.load(config["vit_weights"], weights_only=True)
    parameters = dict(encoder.module.named_parameters())
    assert parameters.keys() == recorded.keys()
    for name, parameter in parameters.items():
        assert torch.equal(parameter, recorded[name].to(dtype))
    assert {b.dtype for b in encoder.buffers()} <= {dtype}


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
@pytest.mark.slow
def test_build_encoder_never_holds_two_copies() -> None:
    """0.31 GB of weights out of 0.86 GB of files; building in float32 and casting takes five times that."""
    command = [sys.executable, "benchmarks/load_weights.py", "--depth", "2", "--ours-only"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    ours = ast.literal_eval(next(line for line in lines if line.startswith("ours")).removeprefix("ours"))
    assert ours["parameters"] == 156_827_776
    assert ours["peak_gb"] < 1.3 * ours["weights_gb"]


@pytest.mark.parametrize("size", [224, 364, 448])
def test_eva_position_embeddings_at_the_published_sizes(tmp_path: Path, size: int) -> None:
    """The second way: torch's bicubic on the grid of 16 x 16, the class token's embedding as it is."""
    sizes = {"embed_dim": 32, "depth": 1, "num_heads": 2}
    torch.manual_seed(0)
    with torch.no_grad():
        published = EvaClipG("eva_clip_g", 224, **sizes).module.state_dict()
        published["pos_embed"] = torch.randn(1, 257, 32)
    torch.save(published, tmp_path / "eva.pth")
    weights = str(tmp_path / "eva.pth")
    encoder = build_encoder("eva_clip_g", size, weights=weights, kwargs=sizes)
    first, grid = published["pos_embed"].split((1, 256), dim=1)
    grid = grid.reshape(1, 16, 16, 32).permute(0, 3, 1, 2)
    side = size // 14
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    expected = torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    assert encoder.module.pos_embed.shape == (1, 1 + side**2, 32)
    torch.testing.assert_close(encoder.module.pos_embed.detach(), expected, rtol=0, atol=1e-5)
    tokens = encoder(torch.zeros(1, 3, size, size))
    assert tokens.shape == (1, 1 + side**2, 32)


@pytest.mark.parametrize("lost", ["running_mean", "running_var", "weight"])
def test_a_tensor_that_a_file_of_weights_lacks(tmp_path, lost) -> None:
    tensors, path = timm.create_model(LITE0).state_dict(), tmp_path / "w.pth"
    name = next(name for name in tensors if name.endswith(f"bn1.{lost}"))
    del tensors[name]
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=re.escape(f"{path}: the key {name!r} is missing")):
        build_encoder(LITE0, 64, weights=str(path))


@pytest.mark.parametrize(
    "content", [{"model": 5}, {"model": [1]}, {1: torch.ones(3)}, {"patch_embed.proj.weight": "x"}, {}]
)
@pytest.mark.parametrize("name", [VIT, LITE0])
def test_a_file_of_something_else(tmp_path, name, content) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / "w.pth"))):
        build_encoder(name, 64, weights=str(tmp_path / "w.pth"))

"""CLIP and SigLIP towers as transformers' own."""

import json
import logging
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file

import minigpt4
from minigpt4.common.config import Config
from minigpt4.export import clip
from minigpt4.export.__main__ import write
from minigpt4.models.bridges import JoinedPatches
from minigpt4.models.encoders.build import build_encoder
from minigpt4.models.vision_tower import VisionTower
from tests.support.exports import TOWERS, clip_config, compare, expected

CLIP, SIGLIP = TOWERS


@pytest.mark.integration
@pytest.mark.parametrize("tower", TOWERS)
def test_tower_answers_alike_where_this_package_is_not_imported(tower, stock, folders) -> None:
    model = minigpt4.load(folders / f"{tower}-parts/mine.yaml", "cpu")
    assert stock[tower]["class"] == "LlavaForConditionalGeneration"
    compare(stock[tower], model)


@pytest.mark.parametrize(
    ("tower", "kind", "strategy"),
    [(CLIP, "clip_vision_model", "default"), (SIGLIP, "siglip_vision_model", "full")],
)
def test_folder_names_no_class_of_ours(tower, kind, strategy, folders) -> None:
    config = json.loads((folders / tower / "config.json").read_text())
    assert config["vision_config"]["model_type"] == kind
    assert config["vision_config"]["num_hidden_layers"] == 2 + 2
    assert config["vision_feature_select_strategy"] == strategy
    assert "import minigpt4" not in (folders / tower / "README.md").read_text()
    vision = load_file(folders / tower / "vision.safetensors")
    assert not [name for name in vision if ".layers.2." in name or ".layers.3." in name]


@pytest.mark.parametrize("tower", TOWERS)
def test_load_reads_a_folder_back(tower, folders) -> None:
    own = minigpt4.load(folders / f"{tower}-parts/mine.yaml", "cpu")
    back = minigpt4.load(folders / tower, "cpu")
    for again, first in zip(expected(back), expected(own), strict=True):
        assert again["ids"].equal(first["ids"])
        vocabulary = len(first["logits"])
        torch.testing.assert_close(again["logits"][:vocabulary], first["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "together", "kwargs", "dtype", "why"),
    [
        (CLIP, 4, {}, torch.float32, "several patches a token"),
        (CLIP, 1, {}, torch.float16, "bfloat16 and float32 only"),
        (SIGLIP, 1, {"init_values": 0.1}, torch.float32, "is built otherwise"),
        (SIGLIP, 1, {"mlp_ratio": 1.5}, torch.float32, "is built otherwise"),
        (SIGLIP, 1, {"act_layer": "relu"}, torch.float32, "computes otherwise"),
        ("vit_tiny_patch16_224", 1, {}, torch.float32, "is built otherwise"),
        ("resnet10t", 1, None, torch.float32, "no CLIP or SigLIP"),
        ("efficientnet_lite0", 1, None, torch.float32, "no CLIP or SigLIP"),
    ],
)
def test_config_is_refused_for_other_towers(name, together, kwargs, dtype, why) -> None:
    sizes = {"depth": 1, "embed_dim": 48, "num_heads": 4}
    kwargs = None if kwargs is None else sizes | kwargs
    encoder = build_encoder(name, 64, weights="random", kwargs=kwargs)
    bridge = JoinedPatches(encoder.patches, encoder.width, together, encoder.prefix_tokens)
    with pytest.raises(clip.NotStock, match=why):
        clip.config_of(VisionTower(encoder, bridge, image_size=64).eval(), dtype)


def test_another_tower_is_written_as_ours_and_it_is_said_why(tmp_path, caplog) -> None:
    cfg = Config(Namespace(cfg_path=clip_config(tmp_path, CLIP, patches_per_token=4, ckpt=None)))
    model = minigpt4.load(tmp_path / "mine.yaml", "cpu")
    torch.save({"model": model.model.trainable_state_dict()}, tmp_path / "projection.pth")
    cfg.model_cfg.ckpt = str(tmp_path / "projection.pth")
    with caplog.at_level(logging.INFO):
        assert write(cfg, tmp_path / "out", None) == "llava"
    assert "several patches a token" in caplog.text
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["vision_config"]["model_type"] == "minigpt4_vision"
    assert "import minigpt4.models.llava_tower" in (tmp_path / "out/README.md").read_text()

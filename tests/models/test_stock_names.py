"""The names of tensors in exported folders."""

import torch

from minigpt4.models.stock_names import from_blip2, from_stock, to_blip2
from tests.support import GOLDEN


def test_names_of_the_encoder_go_to_blip2_and_back() -> None:
    original = torch.load(GOLDEN / "eva_vit.pth", weights_only=True)
    original = {name: tensor for name, tensor in original.items() if not name.startswith(("norm", "head"))}
    stock = to_blip2(original)
    assert all(name.startswith("vision_model.") for name in stock)
    bias = stock["vision_model.encoder.layers.0.self_attn.qkv.bias"]
    assert bias[: len(bias) // 3].equal(original["blocks.0.attn.q_bias"])
    assert not bias[len(bias) // 3 : -len(bias) // 3].any()
    back = from_blip2(stock)
    assert back.keys() == original.keys()
    assert all(back[name].equal(tensor) for name, tensor in original.items())


def test_names_of_other_parts_become_the_originals() -> None:
    names = {
        "vision_model.post_layernorm.weight": "ln_vision.weight",
        "qformer.layernorm.bias": "Qformer.bert.embeddings.LayerNorm.bias",
        "qformer.encoder.layer.0.attention.attention.query.weight": (
            "Qformer.bert.encoder.layer.0.attention.self.query.weight"
        ),
        "query_tokens": "query_tokens",
        "language_projection.weight": "llama_proj.weight",
        "model.multi_modal_projector.linear_1.bias": "llama_proj.bias",
        "model.vision_tower.encoder.blocks.0.norm1.weight": "blocks.0.norm1.weight",
    }
    tensors = {name: torch.full((1,), place) for place, name in enumerate(names)}
    tensors["model.multi_modal_projector.linear_2.weight"] = torch.eye(1)
    for name, (found, value) in zip(tensors, from_stock(tensors).items(), strict=False):
        assert found == names[name]
        assert value is tensors[name]


def test_tensors_of_other_files_keep_their_names() -> None:
    names = ["blocks.0.attn.qkv.bias", "llama_proj.weight", "Qformer.bert.encoder.layer.0.output.dense.bias"]
    tensors = {name: torch.zeros(3) for name in names}
    assert list(from_stock(tensors)) == list(from_blip2(tensors)) == names

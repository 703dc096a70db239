"""The original's names on the composed model: attributes, checkpoint keys, state dicts."""

import copy

import pytest
import torch
from torch import nn

from tests.support.golden import build_golden_model


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_golden_model(llm_sanity_check=False)


def test_attributes_lead_to_the_parts(model) -> None:
    assert model.visual_encoder is model.vision.encoder.module
    assert model.ln_vision is model.vision.ln_vision
    assert model.Qformer is model.vision.bridge.Qformer
    assert model.query_tokens is model.vision.bridge.query_tokens
    assert model.llama_model is model.llm_model is model.language.model
    assert model.llama_tokenizer is model.llm_tokenizer is model.language.tokenizer
    assert model.llama_proj is model.projection
    joined = build_golden_model(has_qformer=False, ckpt=None, llm_sanity_check=False)
    assert not hasattr(joined, "Qformer") and not hasattr(joined, "query_tokens")


def test_attributes_can_be_set() -> None:
    """As code does that wraps the language model, or replaces the projection."""
    model = build_golden_model(llm_sanity_check=False)
    wrapped, projection = copy.deepcopy(model.llama_model), nn.Linear(48, 64)
    model.llama_model, model.llama_proj = wrapped, projection
    model.query_tokens = nn.Parameter(torch.zeros(1, 6, 48))
    assert model.language.model is wrapped and model.projection is projection
    assert {name for name, _ in model.named_children()} == {"vision", "language", "projection"}
    assert model.vision.bridge.query_tokens.sum() == 0


def test_state_dict_has_the_originals_keys(model) -> None:
    state = model.state_dict()
    parts = {key.split(".")[0] for key in state}
    assert parts == {"visual_encoder", "ln_vision", "Qformer", "query_tokens", "llama_model", "llama_proj"}
    assert {
        "visual_encoder.blocks.0.attn.qkv.weight",
        "Qformer.bert.encoder.layer.0.attention.self.query.weight",
        "Qformer.bert.encoder.layer.0.crossattention.self.query.weight",
        "Qformer.bert.embeddings.LayerNorm.weight",
        "llama_model.model.layers.0.self_attn.q_proj.weight",
        "llama_proj.bias",
    } <= state.keys()
    assert state.keys() >= {model.checkpoint_key(name) for name, _ in model.named_parameters()}


def test_load_state_dict_takes_the_originals_keys(model) -> None:
    state = {key: value.clone() for key, value in model.state_dict().items()}
    other = build_golden_model(ckpt=None, llm_sanity_check=False)
    assert not torch.equal(other.llama_proj.weight, model.llama_proj.weight)
    missing, unexpected = other.load_state_dict(state)
    assert not missing and not unexpected
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    projection = {"llama_proj.weight": torch.zeros(64, 48), "llama_proj.bias": torch.zeros(64)}
    result = other.load_state_dict(projection, strict=False)
    assert not result.unexpected_keys and other.projection.weight.sum() == 0


def test_parameter_summary_names_the_originals_parts(model) -> None:
    summary = model.parameter_summary()
    trained = {part: counts["trainable"] for part, counts in summary.items() if counts["trainable"]}
    assert trained == {"llama_proj": 64 * 48 + 64}
    assert summary["query_tokens"] == {"total": 6 * 48, "trainable": 0}

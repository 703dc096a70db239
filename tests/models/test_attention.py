"""The attention that a language model gets is the one it was trained with."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from minigpt4.common.device import has_fast_bf16
from minigpt4.common.errors import ConfigError
from minigpt4.models import execution
from minigpt4.models.llm_loading import load_language_model
from tests.support.families import FAMILIES, save_model
from tests.support.golden import build_golden_model

PADDED = {
    "image": torch.arange(2 * 3 * 56 * 56, dtype=torch.int64)
    .remainder(251)
    .to(torch.uint8)
    .view(2, 3, 56, 56),
    "answer": ["a dog runs in the park and sees two cars", "a"],
}


def test_gemma2s_attention_is_capped(tmp_path) -> None:
    """Gemma-2 caps its attention scores. SDPA cannot, and left it out in silence before transformers 5.21.

    The cap is set so low here that nobody who forgets it can come near.
    """
    folder = save_model(tmp_path / "llm", "gemma2")
    config = json.loads((folder / "config.json").read_text())
    logits = {}
    for cap in (0.001, None):
        (folder / "config.json").write_text(json.dumps(config | {"attn_logit_softcapping": cap}))
        for attention in (None, "eager"):
            language = load_language_model(
                folder, precision="fp32", device=torch.device("cpu"), attention=attention
            )
            for layer in language.layers:
                for parameter in layer.parameters():
                    parameter.data.mul_(10)  # sharp scores, for a cap to change
            ids = language.tokenizer("a dog runs in the park", return_tensors="pt").input_ids
            with torch.no_grad():
                logits[cap, attention] = language.model(input_ids=ids).logits
    torch.testing.assert_close(logits[0.001, None], logits[0.001, "eager"])
    assert (logits[0.001, None] - logits[None, None]).abs().max() > 0.01


def with_a_mask(model: torch.nn.Module, samples: dict[str, Any]) -> torch.Tensor:
    """The losses of all targets with padding masked, by the library's own forward."""
    tokens = model.prepare(samples).tokens
    embeds = model.embed(tokens, model.encode_img(samples["image"])[0])
    logits = model.llama_model(inputs_embeds=embeds, attention_mask=tokens.attention_mask).logits
    return F.cross_entropy(
        logits.flatten(0, 1)[tokens.target_index].float(), tokens.target_ids, reduction="none"
    )


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_without_a_mask_is_training_with_one(tmp_path, family: str, attention: str) -> None:
    """Rows of different lengths; and a window shorter than all of them, which must not get lost."""
    folder = save_model(tmp_path / "llm", family)
    losses = []
    for window in ({}, {"sliding_window": 8}) if family in ("gemma2", "gemma3") else ({},):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | window))
        capped = family == "gemma2"  # which SDPA refuses
        model = build_golden_model(
            llama_model=str(folder),
            end_sym=None,
            ckpt=None,
            llm_sanity_check=False,
            llm_backbone="plain",
            attn_implementation=None if capped else attention,
        )
        losses.append(model.token_losses(PADDED)[0])
        torch.testing.assert_close(losses[-1], with_a_mask(model, PADDED), rtol=0, atol=2e-5)
        usual = "eager" if capped else attention
        assert model.llama_model.config._attn_implementation == usual  # for `generate`, whose masks it needs
    assert len(losses) == 1 or (losses[0] - losses[1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_model_that_looks_ahead_is_refused(tmp_path) -> None:
    """Its replies would depend on what comes after them."""
    folder = save_model(tmp_path / "llm", "gemma3")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_bidirectional_attention": True}))
    with pytest.raises(ConfigError, match="different logits"):
        build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None, llm_sanity_check=False)


@pytest.mark.skipif(not has_fast_bf16(torch.device("cpu")), reason="this CPU does not compute in bfloat16")
def test_a_cpu_takes_plain_products_in_bfloat16_unless_told_otherwise(monkeypatch) -> None:
    cases = ({"vit_precision": "bf16", "llm_precision": "bf16"}, "eager"), ({}, "sdpa")
    for precision, expected in cases:
        model = build_golden_model(**precision, llm_sanity_check=False)
        assert model.llama_model.config._attn_implementation == expected
        assert model.visual_encoder.blocks[0].attn.fused_attn == (expected == "sdpa")
    model = build_golden_model(**cases[0][0], attn_implementation="sdpa", llm_sanity_check=False)
    assert model.llama_model.config._attn_implementation == "sdpa"
    assert model.visual_encoder.blocks[0].attn.fused_attn
    # With many tokens the kernel is the faster one, in the encoder, whose tokens are known.
    monkeypatch.setattr(execution, "PLAIN_ATTENTION_TOKENS", 15)
    assert build_golden_model(**cases[0][0], llm_sanity_check=False).visual_encoder.blocks[0].attn.fused_attn

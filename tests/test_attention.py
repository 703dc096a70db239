"""The attention that a language model gets is the one it was trained with."""

import json

import torch

from minigpt4.models.llm import load_language_model
from tests.families import save_model


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
            model, tokenizer, _ = load_language_model(
                folder, "auto", "fp32", torch.device("cpu"), attn_implementation=attention
            )
            for parameter in model.model.layers.parameters():
                parameter.data.mul_(10)  # sharp scores, for a cap to change
            ids = tokenizer("a dog runs in the park", return_tensors="pt").input_ids
            with torch.no_grad():
                logits[cap, attention] = model(input_ids=ids).logits
    torch.testing.assert_close(logits[0.001, None], logits[0.001, "eager"])
    assert (logits[0.001, None] - logits[None, None]).abs().max() > 0.01

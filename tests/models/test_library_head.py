"""Logits are what the library makes of hidden states, whatever a family does on the way."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from minigpt4.models.backbones.auto import AutoBackbone
from minigpt4.models.language_model import LanguageModel
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder
from tests.support.families import chatml_tokenizer

SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 264,
    "bos_token_id": None,
    "eos_token_id": 258,
    "pad_token_id": 256,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, intermediate_size=96),
    "granite": GraniteConfig(**SIZES, intermediate_size=96, logits_scaling=8.0, embedding_multiplier=12.0),
    "cohere": CohereConfig(**SIZES, intermediate_size=96, logit_scale=0.25),
    "gemma2": Gemma2Config(**SIZES, intermediate_size=96, head_dim=16, final_logit_softcapping=2.0),
    "falcon": FalconConfig(**SIZES),
    "gpt2": GPT2Config(**SIZES, n_positions=128),
    "opt": OPTConfig(**SIZES, ffn_dim=96, word_embed_proj_dim=32, max_position_embeddings=128),
}


def build(config: PreTrainedConfig) -> LanguageModel:
    torch.manual_seed(0)
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config = GenerationConfig(eos_token_id=258)
    tokenizer = chatml_tokenizer()
    return LanguageModel(model, tokenizer, AutoBackbone(tokenizer)).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_losses_and_gradients_are_those_of_the_librarys_logits(config: PreTrainedConfig) -> None:
    language = build(config)
    assert language.width == (32 if isinstance(config, OPTConfig) else 64)
    prompts = PromptEncoder(language.tokenizer, None, 4, language.backbone.template, 32, 100)
    tokens = prompts.encode(
        [Dialogue.prompted("what?", "a red dog"), Dialogue.prompted("and", "two big cars")]
    )
    embeds = language.embed(tokens.ids).detach().requires_grad_()
    ours = language.token_losses(embeds, tokens)
    (gradient,) = torch.autograd.grad(ours.mean(), embeds)
    logits = language.model(inputs_embeds=embeds, attention_mask=tokens.attention_mask).logits.flatten(0, 1)
    theirs = F.cross_entropy(logits[tokens.target_index], tokens.target_ids, reduction="none")
    (expected,) = torch.autograd.grad(theirs.mean(), embeds)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)

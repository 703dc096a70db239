"""Every family of causal language models that transformers knows, as small as it can be built.

`python -m tests.support.causal_families > docs/language_models.md` writes what of them can be used here.
"""

import argparse
import contextlib
import logging
import re
import sys
import textwrap
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import GenerationConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

from minigpt4.common.errors import ConfigError
from minigpt4.models.backbones import AutoBackbone
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.library_check import check_gradient, check_language_model
from minigpt4.models.text_model import text_model
from tests.support.families import chatml_tokenizer

KINDS = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
LARGEST = 20_000_000  # parameters of a model that is built
# Whatever of these a config has is set; the windows are shorter than the texts of the tests.
SMALL: dict[str, Any] = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "rotary_dim": 8},
    **{"vocab_size": 264, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258},
    **{"sliding_window": 8, "attention_window_size": 8, "attention_chunk_size": 8, "is_decoder": True},
    # Mixtures of experts.
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "moe_k": 2},
    **{"num_experts_per_tok": 2, "moe_topk": 2, "n_group": 1, "topk_group": 1, "moe_intermediate_size": 32},
    **{"shared_expert_intermediate_size": 32, "shared_intermediate_size": 32},
    # Latent attention.
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16},
    # Older names, encoders and decoders.
    **{"ffn_dim": 96, "d_ff": 96, "n_inner": 96, "ffn_hidden_size": 96, "embedding_size": 64},
    **{"decoder_layers": 2, "encoder_layers": 2, "decoder_attention_heads": 4, "encoder_attention_heads": 4},
    **{"decoder_ffn_dim": 96, "encoder_ffn_dim": 96},
    # Recurrent layers.
    **{"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16},
    **{
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_mamba_heads": 2,
        "mamba_chunk_size": 8,
        "lru_width": 64,
    },
    **{"linear_key_head_dim": 16, "linear_value_head_dim": 16},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
    **{"state_size": 16, "n_groups": 1, "chunk_size": 8, "conv_kernel": 4},
    # Gemma 3n and 4.
    **{"global_head_dim": 16, "vocab_size_per_layer_input": 264, "hidden_size_per_layer_input": 16},
    **{"laurel_rank": 8},
}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
LINEAR = {"layer_types": ["linear_attention", "full_attention"]}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# What a family needs besides.
ALSO: dict[str, dict[str, Any]] = {
    "bailing_hybrid": LINEAR,
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
    },
    "gemma3n_text": SLIDING | {"num_kv_shared_layers": 0, "activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": LINEAR,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2},
    "kimi_linear": LINEAR | {"linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"num_layers": 1, "expert_ffn_hidden_size": 32},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "qwen3_5_moe_text": LINEAR,
    "qwen3_5_text": LINEAR,
    "qwen3_next": LINEAR,
    "qwen4_exp_text": {"layer_types": ["linear_attention", "indexed_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "reformer": {"axial_pos_embds_dim": [16, 48], "axial_pos_shape": [16, 32]},
    "xlnet": {"d_head": 16},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"num_hidden_layers": 3},
    "zamba2": {"layer_types": ["mamba", "hybrid"]},
    "zaya": {"num_experts_per_tok": 1},
}


def small_config(kind: str) -> PreTrainedConfig:
    """Of a `model_type`.

    Raises:
        Exception: whatever the library raises, if these values do not make a model of that family.
    """
    config_class = CONFIG_MAPPING[kind]
    names = {*vars(config_class()), *config_class.attribute_map}
    keys = {name: value for name, value in SMALL.items() if name in names}
    if "qk_rope_head_dim" in keys:
        keys |= {"num_key_value_heads": 4, "head_dim": 8}
    return config_class(**keys | ALSO.get(kind, {}))


def build_small(kind: str) -> LanguageModel:
    """With seeded weights, large enough that all parts matter."""
    config = small_config(kind)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters")
    torch.manual_seed(0)
    model = text_model(model_class(config))
    with torch.no_grad():
        for parameter in model.parameters():
            # Scales that begin at 0 or 1 keep their middle.
            noise = 0.15 * torch.randn_like(parameter)
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
        model.eval()(input_ids=torch.arange(20)[None])  # does it run at all?
    model.generation_config = GenerationConfig(eos_token_id=258)
    tokenizer = chatml_tokenizer()
    return LanguageModel(model, tokenizer, AutoBackbone(tokenizer), name="it").eval()


@dataclass
class Verdict:
    """What became of a family: how it can be used, or why not.

    Attributes:
        language: built small; None where it is not.
        text: the `model_type` of the text model that is taken out of it.
        refused: why it is refused when it is loaded, or when it is to be trained through.
        untried: why it was not built.
    """

    language: LanguageModel | None = None
    text: str = ""
    refused: str = ""
    untried: str = ""


def judge(kind: str) -> Verdict:
    """Build a family small, and have it checked as any language model is when it is loaded."""
    text = getattr(CONFIG_MAPPING[kind], "sub_configs", {}).get("text_config")
    if text in MODEL_FOR_CAUSAL_LM_MAPPING:
        return Verdict(text=text.model_type)
    try:
        language = build_small(kind)
    except Exception as error:  # whatever the library raises
        return Verdict(untried=_short(error))
    try:
        check_language_model(language, "it", english=False)
        check_gradient(language)
    except ConfigError as error:
        return Verdict(refused=_short(error))
    return Verdict(language)


def _short(error: Exception) -> str:
    """The last line of a message, without the part that is the same for all models."""
    said = repr(error) if isinstance(error, KeyError) else str(error) or type(error).__name__
    line = said.splitlines()[-1].strip()
    line = re.sub(r"^model\.llama_model: it(, an? [\w-]+,)? |: they differ by \d+%| \(docs/\S+\)", "", line)
    return line if len(line) < 100 else line[:100].rsplit(" ", 1)[0] + " …"


def document(verdicts: dict[str, Verdict]) -> str:
    """docs/language_models.md."""

    def table(column: str, rows: dict[str, str]) -> str:
        lines = [f"| `{kind}` | {reason.replace('|', '/')} |" for kind, reason in rows.items()]
        return "\n".join([f"| model_type | {column} |", "|---|---|", *lines])

    works = [f"`{kind}`" for kind, verdict in verdicts.items() if verdict.language]
    return PAGE.format(
        version=transformers.__version__,
        total=len(verdicts),
        works=textwrap.fill(", ".join(works), 110, break_on_hyphens=False),
        count=len(works),
        text=table("text model", {k: f"`{v.text}`" for k, v in verdicts.items() if v.text}),
        refused=table("why", {k: v.refused for k, v in verdicts.items() if v.refused}),
        untried=table("why", {k: v.untried for k, v in verdicts.items() if v.untried}),
    )


PAGE = """\
# Language models

`model.llama_model` takes a causal language model of any transformers family that gives the same logits for
embeddings as for ids. This is checked once, when it is loaded. The library's logits for the ids of one short
sentence are compared with

- the logits used for the loss, for the sentence and its first half in one padded batch;
- the logits of the first and second generated token after each of them, from embeddings.

A model that differs, or fails, is refused with a one-line error. Before training, one backward pass checks
that a gradient reaches the embeddings. The check takes four forward passes of at most two dozen tokens, in
the model's own precision.

Logits are computed by the library's own code after the decoder, so whatever a family does there (scaling,
soft-capping, transforms) is part of the loss. Only labelled tokens go through it. The auxiliary loss of a
mixture of experts is not included.

Only the BOS, EOS and padding ids of `generation_config.json` are used. Prompt and reply together are limited
to the config's `max_position_embeddings`.

The lists below are for transformers {version}, which has {total} names (`model_type` in `config.json`) of
causal language models. Each family was built with a small config and random weights, in float32. They are
generated by

```bash
python -m tests.support.causal_families
```

## Supported: {count}

Loss, gradient and greedy replies are the library's (`tests/models/test_all_families.py`).

{works}

`gemma4_text` is supported if its config sets `hidden_size_per_layer_input` to 0. With per-layer inputs (E2B,
E4B), which are computed from ids, it is refused, like Gemma 3n.

## Multimodal models

Only the text model is loaded; the vision and audio parts are dropped. Whether the text model is supported is
in the other lists.

{text}

## Refused

"Cannot be used here" is followed by the error that transformers raises when the family is given embeddings.

{refused}

## Not tested

These could not be built with a small config, or did not run with it. They are checked like any other when
they are loaded.

{untried}
"""

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()  # --help takes no minute
    logging.disable()
    transformers.utils.logging.set_verbosity_error()
    with contextlib.redirect_stdout(sys.stderr):  # some families print
        page = document({kind: judge(kind) for kind in KINDS})
    print(page, end="")

"""A model built from the recorded reference values, as a user would build it."""

import json
from typing import Any

import pytest
import torch

from minigpt4.common.registry import registry
from minigpt4.models.execution import has_compiler
from minigpt4.models.image_tokens import TokenShape
from tests.support import GOLDEN

can_compile = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler to compile with")


def golden_model_config(**overrides: Any) -> dict[str, Any]:
    """A `model:` section that names the golden weights, at their sizes, in float32."""
    dims = json.loads((GOLDEN / "reference.json").read_text())["dims"]
    return {
        "arch": "minigpt4",
        "image_size": dims["image_size"],
        "vit_model": "eva_clip_g",
        "vit_weights": str(GOLDEN / "eva_vit.pth"),
        "vit_kwargs": {
            "patch_size": dims["patch_size"],
            "embed_dim": dims["vit_dim"],
            "depth": dims["vit_depth"],
            "num_heads": dims["vit_heads"],
            "mlp_ratio": dims["vit_mlp_ratio"],
        },
        "vit_precision": "fp32",
        "has_qformer": True,
        "q_former_model": str(GOLDEN / "blip2_qformer.pth"),
        "q_former_kwargs": {
            "hidden_size": dims["qformer_dim"],
            "num_hidden_layers": dims["qformer_layers"],
            "num_attention_heads": dims["qformer_heads"],
            "intermediate_size": dims["qformer_intermediate"],
            "cross_attention_frequency": dims["qformer_cross_attention_freq"],
        },
        "num_query_token": dims["num_query_token"],
        "llama_model": str(GOLDEN / "llm"),
        "llm_precision": "fp32",
        "end_sym": "\n",
        "max_txt_len": 32,
        "ckpt": str(GOLDEN / "minigpt4_checkpoint.pth"),
    } | overrides


def build_golden_model(features: TokenShape | None = None, **overrides: Any) -> torch.nn.Module:
    """With `features` it is built for cached tokens of this shape."""
    config = golden_model_config(**overrides)
    return registry.get_model_class(config["arch"]).from_config(config, device="cpu", features=features)


def build_golden_v2(features: TokenShape | None = None, **overrides: Any) -> torch.nn.Module:
    """The MiniGPT-v2 that the golden values were recorded from; its `ln_vision` has a file of its own."""
    keys = {
        **{"arch": "minigpt_v2", "has_qformer": False, "chat_template": True},
        **{"prompt_template": "[INST] {} [/INST]", "end_sym": "</s>", "max_txt_len": 60},
        **{"lora_r": 4, "lora_alpha": 8, "llm_sanity_check": False},
        "ckpt": str(GOLDEN / "minigptv2_checkpoint.pth"),
    }
    model = build_golden_model(features, **keys | overrides)
    if features is not None:
        return model
    norm = torch.load(GOLDEN / "minigptv2_ln_vision.pth", weights_only=True)["model"]
    model.ln_vision.load_state_dict({key.removeprefix("ln_vision."): tensor for key, tensor in norm.items()})
    return model

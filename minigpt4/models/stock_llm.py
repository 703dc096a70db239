"""The language model of a folder of `minigpt4 export`, loaded without the rest of the model."""

from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import minigpt4.models.llava_tower  # noqa: F401  (registers the config of the vision tower)

# `model_type` of the whole model -> where the tensors of the language model, or of its decoder, are in it.
WHOLE = {"blip-2": r"^language_model\.", "llava": r"^model\.language_model\."}


def language_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the language model itself."""
    return config.get_text_config() if config.model_type in WHOLE else config


def loader_of(config: PreTrainedConfig) -> tuple[Any, dict[str, Any]]:
    """The class that loads the language model of a folder, and arguments for its `from_pretrained`."""
    if config.model_type not in WHOLE:
        return AutoModelForCausalLM, {}
    text = language_config(config)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
    within = "" if config.model_type == "blip-2" else f"{kind.base_model_prefix}."
    return kind, {"config": text, "key_mapping": {WHOLE[config.model_type]: within}}

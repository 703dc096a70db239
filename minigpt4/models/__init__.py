"""The models that a YAML's `model.arch` may name, imported on first use: their settings need no torch."""

from minigpt4.common.registry import lazily, registry
from minigpt4.models.settings import ModelSettings

MODELS = {"minigpt4": "minigpt4.models.minigpt4:MiniGPT4"}

registry.declare("model", MODELS, {"minigpt4": ModelSettings})

__getattr__ = lazily(
    *MODELS.values(),
    "minigpt4.models.base_model:BaseModel",
    "minigpt4.models.minigpt_base:MiniGPTBase",
    # for outside code (docs/porting.md)
    "minigpt4.compat.models:load_model",
    "minigpt4.compat.models:load_model_and_preprocess",
    "minigpt4.compat.models:load_preprocess",
)

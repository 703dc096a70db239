"""The models that a YAML's `model.arch` may name, imported on first use: their settings need no torch."""

from minigpt4.common.registry import lazily, registry
from minigpt4.models.fork_keys import V2_WITH_GEMMA, VIDEO
from minigpt4.models.settings import MiniGPTv2Settings, ModelSettings

MINIGPT_V2 = "minigpt4.models.minigpt_v2:MiniGPTv2"
MODELS = {
    "minigpt4": "minigpt4.models.minigpt4:MiniGPT4",
    "minigpt_v2": MINIGPT_V2,
    V2_WITH_GEMMA: MINIGPT_V2,
    VIDEO: MINIGPT_V2,
}
SCHEMAS = {"minigpt4": ModelSettings} | dict.fromkeys(("minigpt_v2", V2_WITH_GEMMA, VIDEO), MiniGPTv2Settings)

registry.declare("model", MODELS, SCHEMAS)

__getattr__ = lazily(
    *MODELS.values(),
    "minigpt4.models.base_model:BaseModel",
    "minigpt4.models.minigpt_base:MiniGPTBase",
    # for outside code (docs/porting.md)
    "minigpt4.compat.models:load_model",
    "minigpt4.compat.models:load_model_and_preprocess",
    "minigpt4.compat.models:load_preprocess",
)

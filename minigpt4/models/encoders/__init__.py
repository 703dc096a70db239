"""Vision encoders, one short file each: one of the project is declared here, others by `module:Class`."""

from minigpt4.common.registry import lazily, registry

ENCODERS = {"eva_clip_g": "minigpt4.models.encoders.eva_clip_g:EvaClipG"}

registry.declare("encoder", ENCODERS)

__getattr__ = lazily(
    *ENCODERS.values(),
    "minigpt4.models.encoders.base_encoder:BaseEncoder",
    "minigpt4.models.encoders.timm_models:TimmEncoder",
)

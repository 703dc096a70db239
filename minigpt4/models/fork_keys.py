"""The Gemma fork's keys: `llm_backbone` is the language model's folder, `llm_type` its family, and its
`minigptv2_gemma` is MiniGPT-v2 with Gemma. And those of MiniGPT4-video."""

import logging
import re
from pathlib import Path
from typing import Any

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry

log = logging.getLogger(__name__)

# The fork's `arch` -> ours, and its model types -> ours.
V2_WITH_GEMMA = "minigptv2_gemma"
V2_TYPES = {None: "pretrain_gemma", "pretrain": "pretrain_gemma"}

# MiniGPT4-video's `arch` and model types -> ours. Of its other keys, these change nothing that is computed.
VIDEO = "mini_gpt4_llama_v2"
VIDEO_TYPES = dict.fromkeys((None, "pretrain_vicuna", "minigpt4_video"), "video")
VIDEO_UNUSED = ("architectures", "device", "img_size", "length", "remove_template", "system_prompt")
VIDEO_UNUSED += ("torch_dtype", "transformers_version")


def translate_fork_keys(section: dict[str, Any]) -> dict[str, Any]:
    """A section `model:` in the user's keys -> in this project's; translating twice changes nothing.

    Here `llm_backbone` is the family and `llama_model` the language model.

    Raises:
        ConfigError: for an unknown family in `llm_type`, or two families or language models in one section.
    """
    section = dict(section)
    if section.get("arch") == V2_WITH_GEMMA:
        named = section.get("model_type")
        section |= {"arch": "minigpt_v2", "model_type": V2_TYPES.get(named, named)}
    if section.get("arch") == VIDEO:
        section = _of_video(section)
    family, backbone = section.pop("llm_type", None), section.get("llm_backbone")
    if family is not None:
        _check_family(family)
    if _names_a_model(backbone):
        model = section.get("llama_model")
        if model not in (None, backbone):
            raise ConfigError(
                f"model.llm_backbone and model.llama_model are two language models, {backbone!r} and "
                f"{model!r}: please leave one of them out"
            )
        section["llama_model"] = section.pop("llm_backbone")
        log.info(
            "model.llm_backbone %r is a language model, not a family, so it is read as model.llama_model%s",
            backbone,
            f"; its family is model.llm_type, {family!r}" if family else "",
        )
    elif family is not None and backbone not in (None, family):
        raise ConfigError(
            f"model.llm_type is {family!r} and model.llm_backbone is {backbone!r}: they name two families, "
            "please leave one of them out"
        )
    if family is not None:
        section["llm_backbone"] = family
    return section


def _of_video(section: dict[str, Any]) -> dict[str, Any]:
    """MiniGPT4-video's section: MiniGPT-v2's assembly for pictures of 224 pixels."""
    named, pooled = section.get("model_type"), section.pop("token_pooling", True)
    if not isinstance(pooled, bool):
        raise ConfigError(f"model.token_pooling is {pooled!r}, it must be true or false")
    kept = {name: value for name, value in section.items() if name not in VIDEO_UNUSED}
    patches = {} if pooled else {"patches_per_token": 1}
    return {**kept, **patches, "arch": "minigpt_v2", "model_type": VIDEO_TYPES.get(named, named)}


def _check_family(name: Any) -> None:
    try:
        registry.schema("backbone", str(name))
    except ConfigError as error:
        raise ConfigError(f"model.llm_type: {error}") from error


def _names_a_model(backbone: Any) -> bool:
    """Whether it is a path, a hub id, or a placeholder for one ("please set ..."). A family is one word."""
    if not isinstance(backbone, str) or backbone in registry.tables["backbone"].declared():
        return False
    return bool(re.search(r"[/\\\s]", backbone)) or Path(backbone).exists()

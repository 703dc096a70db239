"""The description that `minigpt4 export` leaves in its folder: from it, this package builds the model.

A folder may be anybody's: a description names no class, no file, and no variable.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt4.common.errors import ConfigError, reading
from minigpt4.common.files import open_regular

DESCRIPTION = "minigpt4.json"
PROMPTS = "prompts.txt"
MAX_BYTES = 10**6

# The keys of `model:` that it may have: those that say what is built.
MODEL_KEYS = (
    *("arch", "vit_model", "vit_kwargs", "vit_precision", "image_size"),
    *("has_qformer", "q_former_kwargs", "num_query_token", "patches_per_token"),
    *("llm_backbone", "llm_precision", "llm_sanity_check", "llm_trainable", "lora_r", "chat_template"),
    *("prompt_template", "end_sym", "max_txt_len", "max_context_len"),
)
PROCESSOR_KEYS = ("image_size", "mean", "std")
# Arguments of timm's that name files or addresses.
FILE_ARGUMENTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def is_exported(path: str | Path) -> bool:
    """Whether a path is a folder with a description."""
    return Path(path, DESCRIPTION).is_file()


def check_encoder(name: str, kwargs: Mapping[str, Any] | None, where: Any) -> None:
    """Check an encoder that a folder names.

    Raises:
        ConfigError: if it is a class, or its arguments name files.
    """
    if ":" in name:
        raise ConfigError(f"{where}: vit_model is {name!r}: a folder cannot name a class")
    for argument in FILE_ARGUMENTS:
        if argument in (kwargs or {}):
            raise ConfigError(f"{where}: vit_kwargs has {argument}: a folder cannot name a file")


def write_description(folder: Path, model: Mapping[str, Any], processor: Mapping[str, Any]) -> None:
    """Write the description of a model.

    Args:
        folder: of the exported model.
        model: the section `model:`, of which `MODEL_KEYS` are kept.
        processor: the arguments of the image processor, of which `PROCESSOR_KEYS` are kept.
    """
    kept = {name: model.get(name) for name in MODEL_KEYS}
    images = {name: processor[name] for name in PROCESSOR_KEYS if processor.get(name) is not None}
    text = json.dumps({"model": kept, "image_processor": images}, indent=2)
    (folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> DictConfig:
    """The sections `model:` and `datasets:` for the model of a folder.

    Raises:
        ConfigError: for a description that is damaged, or names more than an export does.
    """
    path = folder / DESCRIPTION
    with reading(path, ConfigError), open_regular(path) as file:
        text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES:,} bytes")
        content = json.loads(text)
    sections = content if isinstance(content, dict) else {}
    model, images = sections.get("model"), sections.get("image_processor")
    if not isinstance(model, dict) or not isinstance(images, dict):
        raise ConfigError(f"{path} must hold `model` and `image_processor`: is it of `minigpt4 export`?")
    for found, known in ((model, MODEL_KEYS), (images, PROCESSOR_KEYS)):
        for name in found:
            if name not in known:
                raise ConfigError(f"{path}: unknown key {name!r}")
    kwargs = model.get("vit_kwargs")
    check_encoder(str(model.get("vit_model")), kwargs if isinstance(kwargs, dict) else None, path)
    for name in ("arch", "llm_backbone"):
        if ":" in str(model.get(name)):
            raise ConfigError(f"{path}: {name} is {model[name]!r}: a folder cannot name a class")
    if b"${" in text:
        raise ConfigError(f"{path}: ${{...}} is not read from a folder")
    return OmegaConf.create(
        {
            "model": {**model, **_files(folder, bool(model.get("has_qformer", True)))},
            "datasets": {"cc_sbu": {"vis_processor": {"train": {"name": "blip2_image_eval", **images}}}},
            "run": {"task": "image_text_pretrain"},
        }
    )


def _files(folder: Path, has_qformer: bool) -> dict[str, Any]:
    folder = folder.absolute()
    prompts = folder / PROMPTS
    return {
        "vit_weights": str(folder / "vision.safetensors"),
        "llama_model": str(folder),
        "ckpt": str(folder / "projection.safetensors"),
        "ckpt_embedding_convention": "first_layer_input",
        "q_former_model": str(folder / "qformer.safetensors") if has_qformer else None,
        "prompt_path": str(prompts) if prompts.is_file() else None,
    }

"""The original's ways to a model and its processors by name."""

from collections.abc import Mapping
from typing import Any

import torch

from minigpt4.common.registry import registry
from minigpt4.models.base_model import BaseModel
from minigpt4.processors.base_processor import BaseProcessor, build_processors

Processors = dict[str, BaseProcessor]


def load_model(
    name: str,
    model_type: str,
    is_eval: bool = False,
    device: str | torch.device = "cpu",
    checkpoint: str | None = None,
) -> BaseModel:
    """The model of an architecture and a model type with its default weights, and a checkpoint's on top.

    Raises:
        ConfigError: for an unknown name, or a type whose defaults leave a path to be set, as the language
            model's of `pretrain_vicuna0` and `pretrain_llama2`: such a model is built from a YAML.
    """
    section = {"arch": name, "model_type": model_type} | ({"ckpt": checkpoint} if checkpoint else {})
    return registry.get_model_class(name).from_config(section, device=device).train(not is_eval)


def load_preprocess(config: Mapping[str, Any]) -> tuple[Processors, Processors]:
    """The processors of a section with `vis_processor` and `text_processor`, each split -> processor."""
    vis, text = (
        {"train": BaseProcessor(), "eval": BaseProcessor()} | build_processors(config.get(key), key)
        for key in ("vis_processor", "text_processor")
    )
    return vis, text


def load_model_and_preprocess(
    name: str, model_type: str, is_eval: bool = False, device: str | torch.device = "cpu"
) -> tuple[BaseModel, Processors, Processors]:
    """As `load_model`, with BLIP-2's processors at the model's image size."""
    model = load_model(name, model_type, is_eval, device)
    size = {"image_size": model.image_size}
    images = {"train": {"name": "blip2_image_train", **size}, "eval": {"name": "blip2_image_eval", **size}}
    captions = {split: {"name": "blip_caption"} for split in images}
    return model, *load_preprocess({"vis_processor": images, "text_processor": captions})

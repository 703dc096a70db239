"""Writes a model as a folder for transformers."""

import copy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import AutoProcessor, GenerationConfig, PreTrainedConfig

from minigpt4.common.device import PRECISIONS
from minigpt4.common.exported import PROMPTS, write_description
from minigpt4.common.files import new_folder
from minigpt4.export import blip2, llava
from minigpt4.export.card import Notes, write_card
from minigpt4.export.parts import LANGUAGE, VISION, Part, language_tensors, write_parts
from minigpt4.export.processor import build_processor, check_ids
from minigpt4.models.backbones import BACKBONES
from minigpt4.models.generation import GenerationSettings
from minigpt4.models.lora import merge_adapters
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.settings import ModelSettings
from minigpt4.models.vision_tower import VisionTower
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.weights.download import require_space

# What weights that are quantised, and so exist in this form only on a device, are written as.
DENSE = "bf16"


def write_folder(
    out: Path,
    model: MiniGPTBase,
    settings: ModelSettings,
    images: ImageProcessor,
    form: str | None,
    notes: Notes,
) -> str:
    """Write a model, whole or not at all.

    Args:
        out: a folder that does not exist.
        model: with its weights, in evaluation mode, on the CPU.
        settings: of which it was built.
        images: the data sets' image processor.
        form: `blip2` or `llava`; None: `blip2` where it fits.
        notes: for the model card.

    Returns:
        The form.

    Raises:
        ConfigError: for a model that the form has no place for, or a full disk.
    """
    assert isinstance(model.vision, VisionTower)
    form = form or ("blip2" if blip2.fits(model.vision) else "llava")
    precision = settings.llm_precision if settings.llm_precision in PRECISIONS else DENSE
    merge_adapters(model.language.model)
    processor = build_processor(model, images)
    image_token = processor.image_token_id
    text = text_config(model, max(model.language.config.vocab_size, image_token + 1), precision)
    tensors = language_tensors(model.language, text.vocab_size)
    if form == "blip2":
        config = blip2.config_of(model.vision, text, image_token)
        parts = blip2.parts_of(model, tensors)
    else:
        config = llava.config_of(model.vision, settings, text, image_token)
        parts = llava.parts_of(model, tensors, config)
    config.dtype = PRECISIONS[precision]
    parts = [_in_precision(part, settings.vit_precision, precision) for part in parts]
    require_space(out.parent, sum(part.size for part in parts), str(out), "--out")
    with new_folder(out) as folder:
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        generation_config(model, text, image_token).save_pretrained(folder)
        changed: dict[str, Any] = {"llm_precision": precision, "llm_backbone": _family(settings)}
        if form == "llava" and llava.is_stock(config):  # without its pooling, which nothing uses
            changed["vit_kwargs"] = {**(settings.vit_kwargs or {}), "global_pool": ""}
        section = asdict(settings) | changed | {"llm_trainable": "frozen", "lora_r": 0}
        write_description(folder, section, images.describe())
        requests = [turn.text for turn in model.prompts.requests if not turn.verbatim]
        if requests:
            (folder / PROMPTS).write_text("\n".join(requests) + "\n", encoding="utf-8")
        check_ids(AutoProcessor.from_pretrained(folder), model)
        write_parts(parts, folder)
        write_card(folder / "README.md", model, settings, config, parts, notes)
    return form


def text_config(model: MiniGPTBase, rows: int, precision: str) -> PreTrainedConfig:
    """The language model's config, with a row for the image token, and with the ids that end a reply."""
    config = copy.deepcopy(model.language.config)
    config.vocab_size = rows
    config.eos_token_id = model.stop_ids
    config.dtype = PRECISIONS[precision]
    config.name_or_path = ""  # a path of this machine
    return config


def generation_config(model: MiniGPTBase, text: PreTrainedConfig, image_token: int) -> GenerationConfig:
    """How stock code generates if nothing is said: greedily, and never the image token."""
    return GenerationConfig(
        bos_token_id=text.bos_token_id,
        eos_token_id=model.stop_ids,
        pad_token_id=text.pad_token_id if text.pad_token_id is not None else model.stop_ids[0],
        max_new_tokens=GenerationSettings().max_new_tokens,
        suppress_tokens=[image_token],
    )


def _in_precision(part: Part, vision: str, language: str) -> Part:
    precision = {VISION: vision, LANGUAGE: language}.get(part.name)
    return replace(part, dtype=PRECISIONS[precision]) if precision else part


def _family(settings: ModelSettings) -> str:
    """A family outside the package is found again by the chat template that is written."""
    return settings.llm_backbone if settings.llm_backbone in BACKBONES else "auto"

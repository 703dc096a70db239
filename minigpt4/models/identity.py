"""Which parts a checkpoint was trained with, or cached features were made by, and whether they are ours."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import transformers

from minigpt4 import __version__
from minigpt4.common.errors import ConfigError
from minigpt4.models.assembly import vision_sources
from minigpt4.models.base_model import BaseModel
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.settings import FIRST_LAYER_INPUT, QFormerSettings
from minigpt4.models.vision_tower import CachedVision, VisionTower
from minigpt4.prompts.encoder import PromptEncoder
from minigpt4.weights.download import sha256_of
from minigpt4.weights.resolver import locate


def describe(
    vision: VisionTower | CachedVision, language: LanguageModel, prompts: PromptEncoder
) -> dict[str, Any]:
    """What a checkpoint remembers of the parts it was trained with."""
    return {
        "vit_model": vision.name,
        "llama_model": language.name,
        "vit_width": vision.token_shape.vit_width,
        "llm_fingerprint": language.fingerprint,
        "llm_width": language.width,
        "llm_vocabulary": language.config.vocab_size,
        "lora_alpha": None if language.lora is None else language.lora.alpha,
        "image_size": vision.image_size,
        "embedding_convention": FIRST_LAYER_INPUT,
        "template": vars(prompts.template),
        # Without requests no turn was written, and another template may follow.
        "prompted": any(not turn.verbatim for turn in prompts.requests),
        "versions": {
            "minigpt4": __version__,
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        },
    }


def find_mismatch(own: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """Say what differs, before shapes clash somewhere deep inside, or worse, do not.

    Args:
        own: of `describe`.
        meta: the checkpoint's; what it does not say is taken to fit (a file of the original says
            nothing).

    Returns:
        What to write after the checkpoint's name, or None where nothing differs.
    """
    there = {**own, **meta}
    return _other_language_model(own, there) or _other_encoder(own, there) or _other_turns(own, there)


def _other_language_model(own: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    trained = f"was trained for the language model {there['llama_model']!r}"
    here = f"model.llama_model is {own['llama_model']!r}"
    for key in ("llm_width", "llm_vocabulary"):
        if there[key] != own[key]:
            return f"{trained} ({key}: {there[key]}), {here} ({key}: {own[key]})"
    # Either may differ alone: a folder was renamed, or the same weights were read in another precision.
    if all(there[key] != own[key] for key in ("llama_model", "llm_fingerprint")):
        return f"{trained}, {here}, and their weights differ"
    return None


def _other_encoder(own: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    for key in ("vit_model", "vit_width"):
        if there[key] != own[key]:
            return (
                f"was trained with the encoder {there['vit_model']!r} ({key}: {there[key]}), "
                f"model.vit_model is {own['vit_model']!r} ({key}: {own[key]})"
            )
    return None


def _other_turns(own: Mapping[str, Any], there: Mapping[str, Any]) -> str | None:
    """What marks the user's and the assistant's words; the spacing around it may differ, if it is not all."""
    if not there["prompted"]:
        return None
    written, here = (
        [str(meta["template"].get(mark)) for mark in ("user", "assistant")] for meta in (there, own)
    )
    if [mark.strip() or mark for mark in written] == [mark.strip() or mark for mark in here]:
        return None
    return (
        f"was trained with turns written {'...'.join(written)!r}, here they are written {'...'.join(here)!r} "
        "(model.prompt_template, model.llm_backbone)"
    )


def vision_identity(model_class: type[BaseModel], cfg: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the tokens of an image: the architecture, and the SHA-256 of the files of weights.

    Of the files, not of the built modules: a module would have to be built first, in this machine's dtype,
    only to be compared, whereas a file is the same everywhere, 2.4 GB of them are read in seconds, and
    `sha256sum` checks what is written. The price: the same weights in another format count as others. Files
    that are not on this disk are not fetched for it; their `sha256` is None.

    Args:
        model_class: the class that `model.arch` names.
        cfg: the section `model:`, defaults included.

    Raises:
        ConfigError: if a part is not frozen, or a local file does not exist.
    """
    settings = model_class.settings(cfg)
    for key in ("freeze_vit", "freeze_qformer"):
        if not getattr(settings, key) and (key == "freeze_vit" or settings.has_qformer):
            raise ConfigError(f"model.{key} is False: what is trained changes, its features cannot be cached")
    identity: dict[str, Any] = {
        "vit_model": settings.vit_model,
        "vit_kwargs": settings.vit_kwargs or {},
        "image_size": settings.image_size,
        "has_qformer": settings.has_qformer,
    }
    if settings.has_qformer:
        usual = asdict(QFormerSettings())
        sizes = asdict(settings.q_former_kwargs)
        identity["q_former_kwargs"] = {key: size for key, size in sizes.items() if size != usual[key]}
        identity["num_query_token"] = settings.num_query_token
    else:
        identity["patches_per_token"] = settings.patches_per_token
    if settings.tokens_per_frame is not None:
        identity["tokens_per_frame"] = settings.tokens_per_frame
    for source in vision_sources(settings):
        place = locate(source)
        digest = sha256_of(place.path) if place.present and place.path else None
        identity[source.key.removeprefix("model.")] = {"source": source.shown, "sha256": digest}
    return identity


def other_vision(there: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """In words, what of two `vision_identity` differs; None if nothing."""
    for key in (*own, *there):
        theirs, ours = there.get(key), own.get(key)
        if theirs == ours or _same_weights(theirs, ours):
            continue
        return f"was made with model.{key} {_shown(theirs)}, the config says {_shown(ours)}"
    return None


def _same_weights(theirs: Any, ours: Any) -> bool:
    """By content; where the file is not on this disk, by where it comes from."""
    if not (isinstance(theirs, Mapping) and isinstance(ours, Mapping) and "sha256" in theirs):
        return False
    what = "sha256" if theirs["sha256"] and ours.get("sha256") else "source"
    return theirs.get(what) == ours.get(what)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and "sha256" in value:
        digest = f"SHA-256 {str(value['sha256'])[:12]}…" if value["sha256"] else "not on this disk"
        return f"{value.get('source')!r} ({digest})"
    return repr(value)

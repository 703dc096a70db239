"""Whether a checkpoint was trained beside the parts it is loaded beside: its `meta` says."""

from collections.abc import Mapping
from typing import Any


def find_mismatch(own: Mapping[str, Any], meta: Mapping[str, Any]) -> str | None:
    """Say in words what differs, before shapes clash somewhere deep, or worse, do not.

    Args:
        own: `MiniGPTBase.checkpoint_meta()`.
        meta: the checkpoint's; what it does not say (a file of the original says nothing) is taken to
            fit.

    Returns:
        What to write behind the checkpoint's name, or None where nothing differs.
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
    """What marks the user's and the assistant's words; the spacing around it may differ."""
    if not there["prompted"]:
        return None
    written, here = (
        [str(meta["template"].get(sign)) for sign in ("user", "assistant")] for meta in (there, own)
    )
    if [sign.strip() for sign in written] == [sign.strip() for sign in here]:
        return None
    return (
        f"was trained with turns written {'...'.join(written)!r}, here they are written {'...'.join(here)!r} "
        "(model.prompt_template, model.llm_backbone)"
    )

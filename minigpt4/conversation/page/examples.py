"""Example pictures with questions, offered in an empty dialogue."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from omegaconf import DictConfig

# The tiny language models, and the pictures that go with them.
_TINY = resources.files("minigpt4") / "assets" / "tiny"


@dataclass(frozen=True)
class Example:
    """Pictures, and questions to ask about them in turn.

    Attributes:
        pictures: paths.
        questions: in the language that the model was trained in.
    """

    pictures: tuple[str, ...]
    questions: tuple[str, ...]


def examples_for(model_cfg: DictConfig) -> list[Example]:
    """The tiny models' examples; other models have none."""
    folder = Path(str(_TINY)) / "examples"
    if not str(model_cfg.get("model_type", "")).startswith("tiny") or not folder.is_dir():
        return []
    name = "examples_v2.json" if model_cfg.get("arch") == "minigpt_v2" else "examples.json"
    listed = json.loads((folder / name).read_text(encoding="utf-8"))
    return [
        Example(tuple(str(folder / name) for name in one["images"]), tuple(one["questions"]))
        for one in listed
    ]

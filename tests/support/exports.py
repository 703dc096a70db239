"""Tiny models, written by `minigpt4 export` in float32."""

from argparse import Namespace
from pathlib import Path

from minigpt4.common.config import Config
from minigpt4.export.__main__ import write
from minigpt4.serving import ChatModel, load
from tests.support import ROOT

FLOAT32 = ["model.llm_precision=fp32", "model.vit_precision=fp32"]
EXAMPLES = ROOT / "minigpt4/assets/tiny/examples"
PICTURES = [str(EXAMPLES / name) for name in ("cross.png", "cross-circle.png", "star-circle.png")]
QUESTION = "What is this?"


def config(llm: str) -> str:
    return str(ROOT / f"eval_configs/minigpt4_tiny_{llm}_eval.yaml")


def export_tiny(llm: str, out: Path, form: str | None = None, *options: str) -> str:
    return write(Config(Namespace(cfg_path=config(llm), options=[*FLOAT32, *options])), out, form)


def load_tiny(llm: str) -> ChatModel:
    return load(config(llm), "cpu", FLOAT32)


def replies(model: ChatModel) -> list[str]:
    """Greedy ones, about each picture alone, and about the first two together."""
    shown = [*([one] for one in PICTURES), PICTURES[:2]]
    greedy = {"temperature": 0, "repetition_penalty": 1, "max_new_tokens": 24}
    return [model.chat(QUESTION, [Path(one) for one in names], **greedy) for names in shown]

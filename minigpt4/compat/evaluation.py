"""The original's evaluation scripts: their flags, and the helpers that such scripts import."""

import argparse
from collections.abc import Sequence
from typing import Any

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.conversation.messages import Conversation
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import BaseProcessor, processors_of
from minigpt4.processors.boxes import GRID


def eval_parser() -> argparse.ArgumentParser:
    """The flags that all of them have. A rank or factor of LoRA that is not given is the YAML's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-path", required=True, help="the YAML")
    parser.add_argument("--name", default="A2", help="not used")
    parser.add_argument("--ckpt", help="model.ckpt")
    parser.add_argument("--eval_opt", default="all", help="not used")
    parser.add_argument("--max_new_tokens", type=int, default=10, help="longest answer in tokens")
    parser.add_argument("--batch_size", type=int, default=32, help="samples per batch")
    parser.add_argument("--lora_r", type=int, help="model.lora_r")
    parser.add_argument("--lora_alpha", type=int, help="model.lora_alpha")
    parser.add_argument("--options", nargs="+", help="override keys of the YAML: a.b=c")
    return parser


def prepare_texts(texts: Sequence[str], conv_temp: Conversation) -> list[str]:
    """Each text as the first question about an image, as the conversation writes it."""
    prompts = []
    for text in texts:
        conversation = conv_temp.copy()
        conversation.append_message(conversation.roles[0], f"<Img><ImageHere></Img> {text}")
        conversation.append_message(conversation.roles[1], None)
        prompts.append(conversation.get_prompt())
    return prompts


def init_model(args: argparse.Namespace) -> tuple[MiniGPTBase, BaseProcessor]:
    """The model of the YAML with the flags over it, on the best device, and its first image processor."""
    cfg = Config(args)
    for name in ("ckpt", "lora_r", "lora_alpha"):
        if getattr(args, name, None) is not None:
            cfg.model_cfg[name] = getattr(args, name)
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg)
    images, _ = processors_of(cfg.datasets_cfg, "train")
    return model.eval(), images  # type: ignore[return-value]  # image processors are processors


def computeIoU(bbox1: Sequence[float], bbox2: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom), both edges counted in, as pixels are.

    `minigpt4.processors.boxes.iou` goes by area, and is what the task `refer` takes.
    """

    def area(left: float, top: float, right: float, bottom: float) -> float:
        return max(0, right - left + 1) * max(0, bottom - top + 1)

    overlap = area(*map(max, bbox1[:2], bbox2[:2]), *map(min, bbox1[2:], bbox2[2:]))
    return overlap / (area(*bbox1) + area(*bbox2) - overlap)


def evaluate_as(datasets: Sequence[str]) -> None:
    """The original's `eval_vqa.py` and `eval_ref.py`: its flags, and then `evaluate.py`.

    Args:
        datasets: which it evaluates where `--dataset` does not say.
    """
    from minigpt4.commands.evaluate import evaluate
    from minigpt4.common import cli

    parser = eval_parser()
    parser.set_defaults(max_new_tokens=None, batch_size=None)
    parser.add_argument(
        "--dataset", type=_names, default=list(datasets), help="entries of evaluation_datasets"
    )
    parser.add_argument("--split", type=_names, help="by default all of them")
    parser.add_argument("--res", type=float, default=GRID, help=f"steps of the grid of boxes; only {GRID}")
    parser.add_argument("--resample", action="store_true", help="no effect: greedy answers do not change")
    parser.add_argument("--img_path", help="the folder of pictures; by default the YAML's")
    parser.add_argument("--eval_file_path", help="the annotations; by default the YAML's")
    parser.add_argument("--save_path", type=cli.user_path, help="the report, as of evaluate.py --out")
    args = parser.parse_args()
    cli.run(lambda given: evaluate(_for_evaluate(given)), args)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _for_evaluate(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments of `evaluate.py` that mean the same."""
    if args.res != GRID:
        raise ConfigError(f"--res is {args.res:g}, but boxes have coordinates from 0 to {GRID}")
    options = list(args.options or [])
    if options and "=" not in options[0]:  # the original's pairs `a.b c`
        options = [f"{name}={value}" for name, value in zip(options[::2], options[1::2], strict=False)]
    for key in ("ckpt", "lora_r", "lora_alpha"):
        options += _option(f"model.{key}", getattr(args, key))
    for name in args.dataset:
        for key in ("img_path", "eval_file_path", "max_new_tokens", "batch_size"):
            options += _option(f"evaluation_datasets.{name}.{key}", getattr(args, key))
    return argparse.Namespace(
        **{"cfg_path": args.cfg_path, "options": options, "dataset": args.dataset, "split": args.split},
        **{"out": args.save_path, "batch_size": args.batch_size, "shards": None, "limit": None},
        **{"shuffled": False, "controls": False, "device": None},
    )


def _option(key: str, value: Any) -> list[str]:
    return [] if value is None else [f"{key}={value}"]

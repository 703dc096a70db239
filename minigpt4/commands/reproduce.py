"""Reproduce the table of MiniGPT-v2's paper: name, fetch and check what it takes, and evaluate item by item.

A folder of data is laid out as the original's evaluation guide says; docs/evaluation.md shows it. What is not
there and is published is fetched (about 47 GB for all). What cannot be had is named, with who gives it out
and where it must lie, and the exit code is then 1. What is there is evaluated, with controls, into
OUT/report.json; a run that was killed goes on where it stopped.

example:
  minigpt4 reproduce minigptv2 --data /data/minigptv2_evaluation --check
  minigpt4 reproduce minigptv2 --data /data/minigptv2_evaluation --out output/reproduce \\
      --options model.llama_model=/data/Llama-2-7b-chat-hf model.ckpt=/data/minigptv2_checkpoint.pth
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common import parts
from minigpt4.common.cli import add_device, config_parser, run, user_path
from minigpt4.common.files import inside
from minigpt4.common.formatting import format_table

if TYPE_CHECKING:
    from minigpt4.common.config import Config

# What can be reproduced -> its YAML, in a checkout.
TABLES = {"minigptv2": "eval_configs/minigptv2_benchmark_evaluation.yaml"}
# Benchmark -> annotations and pictures, below the folder of data.
PLACES = {
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog"), (".", "coco/train2014")),
    "okvqa": ("okvqa", "coco/val2014"),
    "vizwiz": ("vizwiz", "vizwiz/vizwiz_images"),
    "iconvqa": ("iconvqa", "iconvqa/iconvqa_images"),
    "gqa": ("gqa", "gqa/gqa_images"),
    "vsr": ("vsr", "vsr/vsr_images"),
    "hm": ("hateful_meme", "hateful_meme/hm_images"),
}


@dataclass
class Item:
    """One thing that the table takes.

    Attributes:
        name: of the benchmark, or the key of the weights.
        state: what is there, in a few words.
        problems: what is missing.
    """

    name: str
    state: str
    problems: list[str] = field(default_factory=list)


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    from minigpt4.common.registry import registry

    root = Path(str(registry.get_path("repo_root")))
    parser = config_parser(__doc__, default=str(root / TABLES["minigptv2"]))
    parser.add_argument("table", choices=TABLES, help="which table")
    parser.add_argument("--data", type=user_path, required=True, metavar="DIR", help="the folder of data")
    parser.add_argument("--out", type=user_path, default=Path("output/reproduce"), metavar="DIR")
    parser.add_argument(
        "--check", action="store_true", help="fetch nothing and evaluate nothing: only show what is missing"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples of each split")
    add_device(parser)
    parts.add_arguments(parser)
    run(reproduce, parser.parse_args())


def reproduce(args: argparse.Namespace) -> None:
    """Weights, data, a table of both, evaluation of what is there."""
    from minigpt4.commands.evaluate import evaluate
    from minigpt4.common.config import Config

    args.options = [*args.options, *place_options(args.data)]
    weights = check_weights(Config(args), download=not args.check)
    data = check_data(Config(args))
    if incomplete := [item.name for item in data if item.problems]:
        fetch_data(args.data, incomplete, listed=args.check)
        data = data if args.check else check_data(Config(args))
    print(format_table([(item.name, item.state) for item in (*weights, *data)]))
    problems = [one for item in weights for one in item.problems]  # each names its key
    problems += [f"{item.name}: {one}" for item in data for one in item.problems]
    there = [item.name for item in data if not item.problems]
    for problem in problems:
        print(f"missing: {problem}", file=sys.stderr)
    if not args.check and there and not any(item.problems for item in weights):
        evaluate(
            argparse.Namespace(
                **vars(args) | {"out": args.out / "report.json", "dataset": there, "controls": True},
                **{"split": None, "shards": None, "shuffled": False, "batch_size": None},
            )
        )
    sys.exit(1 if problems else 0)


def place_options(folder: Path) -> list[str]:
    """The options that set where each benchmark is."""
    options = []
    for name, (annotations, pictures) in PLACES.items():
        section = f"evaluation_datasets.{name}"
        options.append(f"{section}.eval_file_path={folder / annotations}")
        options.append(f"{section}.img_path={folder / pictures}")
    return options


def check_weights(cfg: "Config", *, download: bool) -> list[Item]:
    """Every file of weights that the model takes."""
    from minigpt4.weights.fetch import examine, find_sources

    items = []
    for source in find_sources(cfg):
        (key, state, _, shown, _), problem = examine(source, download=download)
        items.append(Item(key, f"{state}: {shown}", [problem] if problem else []))
    return items


def check_data(cfg: "Config") -> list[Item]:
    """Every benchmark: its annotations are read, and each picture that they name is looked for."""
    from minigpt4.commands.evaluated_data import use_evaluation_datasets
    from minigpt4.common.errors import UserError
    from minigpt4.datasets.builders.base_dataset_builder import check_datasets
    from minigpt4.datasets.published import FORMATS

    use_evaluation_datasets(cfg, None, None)
    items = []
    for name, builder in check_datasets(cfg.datasets_cfg).items():
        source = f"(from {FORMATS[builder.build_info.format].source})"
        counts, problems = [], []
        try:
            for split, dataset in builder.build_datasets().items():
                counts.append(f"{split} {len(dataset):,}")  # type: ignore[arg-type]  # map-style
                problems += [f"{split}: {one} {source}" for one in missing_pictures(dataset)]
        except UserError as error:
            items.append(Item(name, "missing", [f"{error} {source}"]))
            continue
        items.append(Item(name, ", ".join(counts), problems))
    return items


def fetch_data(root: Path, benchmarks: Sequence[str], *, listed: bool) -> None:
    """Fetch what these benchmarks take, and say what could not be had.

    Args:
        root: the folder of data.
        benchmarks: names.
        listed: only show what there is to fetch.
    """
    from minigpt4.commands.download_minigptv2 import overview
    from minigpt4.datasets.download.items import BENCHMARK_ITEMS
    from minigpt4.datasets.download.store import Store

    items = list(dict.fromkeys(item for name in benchmarks for item in BENCHMARK_ITEMS.get(name, ())))
    store = Store(root)
    for problem in () if listed else store.fetch_all(items):
        print(f"missing: {problem}", file=sys.stderr)
    print(overview(items, store))


def missing_pictures(dataset: Any) -> list[str]:
    """One sentence if pictures are missing; nothing otherwise.

    Args:
        dataset: of a benchmark.

    Raises:
        DataError: for an entry that names no picture.
    """
    from minigpt4.common.errors import DataError, reading

    names = set()
    for number, entry in enumerate(dataset.annotation):
        with reading(dataset.where(number), DataError, failed="{} names no picture"):
            names.add(dataset.picture_name(entry))
    missing = sorted(name for name in names if not _is_there(dataset.vis_root, name))
    if not missing:
        return []
    shown = f"the first is {missing[0]}"
    return [f"{len(missing):,} of {len(names):,} pictures are missing in {dataset.vis_root}, {shown}"]


def _is_there(root: Path, name: str) -> bool:
    try:
        return os.path.isfile(inside(root, name))
    except ValueError:  # outside the folder: it would not be read
        return False


if __name__ == "__main__":
    main()

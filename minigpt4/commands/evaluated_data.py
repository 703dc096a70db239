"""Which data an evaluation reads: splits of the config's data sets, shards, or its `evaluation_datasets`."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from minigpt4.common.config import Config, plain
from minigpt4.common.errors import ConfigError, nearest

if TYPE_CHECKING:
    from minigpt4.datasets.builders.base_dataset_builder import Datasets

SHARDS = "eval"  # what the split of `--shards` is called
PROCESSORS = ("vis_processor", "text_processor", "video")


def use_shards(cfg: Config, pattern: str) -> None:
    """Put shards in place of the config's data sets, read as its first data set of shards is.

    Where it has none, the processors of its first data set are taken.
    """
    from minigpt4.datasets.builders.base_dataset_builder import builder_class
    from minigpt4.datasets.builders.image_text_pair_builder import WebdatasetBuilder
    from minigpt4.datasets.datasets.shard_list import expand_shards

    sections = sections_of(cfg)
    for name, section in sections.items():
        if issubclass(builder_class(name, section), WebdatasetBuilder):
            break
    else:
        name, section = "cc_sbu", processors_of_first(sections)
    storage = {SHARDS: expand_shards(pattern, "--shards")}
    info = {**section.get("build_info", {}), "storage": storage}
    cfg.config.datasets = {name: {**section, "build_info": info}}


def use_evaluation_datasets(cfg: Config, names: Sequence[str] | None, splits: Sequence[str] | None) -> None:
    """Put the entries of `evaluation_datasets:` in place of the config's data sets.

    Args:
        cfg: changed; the processors of its first data set are taken.
        names: of the entries that are wanted; None: all.
        splits: that are wanted; None: all that a set has.

    Raises:
        ConfigError: for a name that is not there, or no section `datasets`.
    """
    entries = plain(cfg.evaluation_datasets_cfg)
    for name in names or ():
        if name not in entries:
            there = ", ".join(entries) or "the config has no evaluation_datasets"
            raise ConfigError(f"--dataset: there is no {name!r}{nearest(name, entries)} (there: {there})")
    processors = processors_of_first(sections_of(cfg))
    cfg.config.datasets = {
        name: {"builder": "published", **processors, **_section(name, entry, splits)}
        for name, entry in entries.items()
        if names is None or name in names
    }


def _section(name: str, entry: Mapping[str, Any], splits: Sequence[str] | None) -> dict[str, Any]:
    """An entry of `evaluation_datasets:` as one of `datasets:`."""
    from minigpt4.datasets.published import FORMATS

    kind = entry.get("format") or name
    return {
        "task": entry.get("task") or FORMATS[kind].task,
        "max_new_tokens": entry["max_new_tokens"],
        "batch_size": entry["batch_size"],
        "build_info": {
            "format": kind,
            "eval_file_path": entry["eval_file_path"],
            "img_path": entry["img_path"],
            "splits": splits or entry.get("splits"),
        },
    }


def sections_of(cfg: Config) -> dict[str, Any]:
    """The section `datasets:`. Raises ConfigError if it is missing or empty."""
    sections = plain(cfg.datasets_cfg)
    if not sections:
        raise ConfigError("the section `datasets` is missing or empty: its image processor is needed")
    return sections


def processors_of_first(sections: Mapping[str, Any]) -> dict[str, Any]:
    """The processors of the first data set, for data from elsewhere."""
    first = next(iter(sections.values()))
    return {key: first[key] for key in PROCESSORS if key in first}


def splits_to_evaluate(datasets: "Datasets", cfg: Config, wanted: Sequence[str] | None) -> list[str]:
    """The splits that `--split` names, else those of `run.test_splits`, else the first held-out one.

    Raises:
        ConfigError: if there is none, or no data set has it.
    """
    there = list(dict.fromkeys(split for _, by_split in datasets.values() for split in by_split))
    trained = cfg.run_value("train_splits")
    splits = list(wanted or cfg.run_value("test_splits"))
    splits = splits or [split for split in there if split not in trained][:1]
    if not splits:
        raise ConfigError(f"no split is held out: please name one with --split (there: {', '.join(there)})")
    for split in splits:
        if split not in there:
            key = "--split" if wanted else "run.test_splits"
            raise ConfigError(
                f"{key}: no data set has a split {split!r}{nearest(split, there)} (there: {', '.join(there)})"
            )
    return splits


def load(dataset: Any, batch_size: int, args: argparse.Namespace, cfg: Config, prompts: Any) -> Any:
    """The batches of a split, once and in order, while the block is entered; `prompts` are the model's."""
    from torch.utils.data import DataLoader

    from minigpt4.datasets.collate import BatchStream
    from minigpt4.datasets.workers import read_by_workers

    limit = cfg.run_value("max_bad_fraction")
    batches = BatchStream(dataset, batch_size, limit, args.limit, prompts=prompts)
    # One worker: the order is kept, and pictures are decoded while the model works.
    return read_by_workers(DataLoader(batches, batch_size=None, num_workers=1), "evaluation")

"""Evaluate a model on held-out data, as the config's task says.

Prints the task's metrics, for captions the mean loss per token and the share that matches exactly; `--out`
keeps a record of each sample. With `--shuffled`, answers get the pictures of other samples: a model that
looks then has a clearly higher loss than before; one that only guesses has the same.

example:
  python evaluate.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml --split test \\
      --options model.ckpt=output/minigpt4_tiny_gemma_stage1/checkpoint_latest.pth
  python evaluate.py --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml \\
      --shards 'output/shapes/test/{00000..00000}.tar' --out output/report.json
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common import parts
from minigpt4.common.cli import add_device, config_parser, run, user_path
from minigpt4.common.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable

    from minigpt4.commands.evaluated_parts import Records
    from minigpt4.common.config import Config
    from minigpt4.common.parts import Share
    from minigpt4.datasets.builders.base_dataset_builder import Datasets
    from minigpt4.tasks.base_task import BaseTask
    from minigpt4.tasks.records import Record

log = logging.getLogger("evaluate")

SHARDS = "eval"  # what the split of `--shards` is called


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__, exported=True)
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--split",
        metavar="S",
        help="a split of the config's data sets; by default those of run.test_splits, else the first one "
        "that is not trained on",
    )
    data.add_argument(
        "--shards", metavar="PATTERN", help="webdataset shards instead, e.g. DIR or 'DIR/{00000..00004}.tar'"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples of each split")
    parser.add_argument(
        "--out", type=user_path, metavar="JSON", help="the report, with a record of each sample"
    )
    parser.add_argument(
        "--shuffled", action="store_true", help="give answers the pictures of other samples of their batch"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="B", help="samples per batch; by default run.batch_size_eval (32)"
    )
    add_device(parser)
    parts.add_arguments(parser)
    run(evaluate, parser.parse_args())


def evaluate(args: argparse.Namespace) -> None:
    """Arguments, data, model, evaluation, report: one paragraph per step."""
    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config
    from minigpt4.common.parts import Share

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    if args.batch_size is None:
        args.batch_size = cfg.run_value("batch_size_eval")
    share = Share.of(args)
    check_arguments(args, share)
    if not share.merge_only:
        check_model(cfg, args.device)

    from minigpt4.commands.evaluated_parts import in_order, records_by_batch
    from minigpt4.tasks.base_task import setup_task
    from minigpt4.tasks.records import Limits

    if args.shards:
        use_shards(cfg, args.shards)
    task = setup_task(cfg, default="image_text_pretrain")

    log.info("finding the data")
    datasets = task.build_datasets(cfg)
    splits = [SHARDS] if args.shards else splits_to_evaluate(datasets, cfg, args.split)
    asked = {"shards": args.shards} if args.shards else {"splits": splits}
    head = {"config": str(args.cfg_path), **asked, "shuffled": args.shuffled}

    def records() -> "Records":
        log.info("building the model")
        model = task.build_model(cfg, device=args.device, datasets=datasets)
        made = []
        for name, (_, by_split) in datasets.items():
            for split in filter(by_split.__contains__, splits):
                log.info("evaluating %s.%s", name, split)
                limits = Limits(shuffled=args.shuffled, total=args.limit if share.count == 1 else None)
                with load(by_split[split], args, cfg, model.prompts) as batches:
                    made.append(records_by_batch(task, model, share.take(batches), limits))
        return made

    if share.count == 1:
        report(task, in_order([records()]), head, args.out)
    else:
        made = {**head, "settings": cfg.to_dict(), "limit": args.limit, "batch_size": args.batch_size}
        made["ckpt"] = identity_of(cfg.model_cfg.get("ckpt"))
        evaluate_in_parts(task, records, share, made, head, args)


def evaluate_in_parts(
    task: "BaseTask",
    records: "Callable[[], Records]",
    share: "Share",
    made: dict[str, Any],
    head: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Make this share's part of the report, unless it is there, and the report once all parts are.

    Args:
        task: sums up.
        records: makes the records, by split and batch.
        share: this process's.
        made: the settings that a part depends on; parts made with others are refused.
        head: how the report begins.
        args: the command line.
    """
    from minigpt4.commands.evaluated_parts import in_order, read_part, write_part
    from minigpt4.common.parts import Parts

    parts = Parts(args.out, share, "--out")
    if not share.merge_only:
        with parts.claimed() as path:
            if path.exists():
                read_part(path, made)
                log.info("%s is there", path)
            else:
                write_part(path, made, records())
    parts.merge(
        lambda paths: report(task, in_order([read_part(path, made) for path in paths]), head, args.out)
    )


def report(task: "BaseTask", records: list["Record"], head: dict[str, Any], out: Path | None) -> None:
    """Write the metrics to `out` with the records, and print them.

    Raises:
        DataError: without records.
    """
    from minigpt4.common.errors import ConfigError, DataError
    from minigpt4.common.logger import write_json
    from minigpt4.tasks.records import format_metric

    if not records:
        unmixed = (
            ": no batch has two different answers to exchange the pictures of" if head["shuffled"] else ""
        )
        raise DataError(f"no samples to evaluate{unmixed}")
    metrics = task.summarize(records)
    if out:
        content = {**head, "samples": len(records), **metrics.to_json()}
        content |= {"percentages": sorted(metrics.percentages)}
        try:
            write_json(out, content | {"records": [record.to_json() for record in records]})
        except OSError as error:
            raise ConfigError(f"--out: {out} could not be written: {error}") from error
        log.info("wrote %s", out)
    # Last: it fails if the reader has gone (`... | head`).
    for name, value in {"samples": len(records), **metrics.values}.items():
        print(f"{name.replace('_', ' '):32} {format_metric(value, name in metrics.percentages):>10}")


def identity_of(ckpt: str | None) -> list[int] | None:
    """Size and time of a local checkpoint, which may be overwritten under the same name."""
    path = Path(expanded(ckpt or ""))
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None


def check_arguments(args: argparse.Namespace, share: "Share") -> None:
    """Raise ConfigError for what would only fail after the work, or come to nothing."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import require_writable

    for name, value in (("--limit", args.limit), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, it must be at least 1")
    for name, value in (("--batch-size", args.batch_size), ("--limit", args.limit)):
        if args.shuffled and value == 1:
            raise ConfigError(f"--shuffled exchanges the pictures of a batch: {name} must be at least 2")
    if args.out:
        require_writable(args.out, "--out")
    elif share.count > 1:
        raise ConfigError(f"--out is missing: the {share.count} shares are merged into it")


def use_shards(cfg: "Config", pattern: str) -> None:
    """Put shards in place of the config's data sets, read as its first data set of shards is.

    Where it has none, the processors of its first data set are taken.
    """
    from minigpt4.common.config import plain
    from minigpt4.common.errors import ConfigError
    from minigpt4.datasets.builders.base_dataset_builder import builder_class
    from minigpt4.datasets.builders.image_text_pair_builder import WebdatasetBuilder
    from minigpt4.datasets.datasets.shard_list import expand_shards

    sections = plain(cfg.datasets_cfg)
    if not sections:
        raise ConfigError("the section `datasets` is missing or empty: its image processor is needed")
    for name, section in sections.items():
        if issubclass(builder_class(name, section), WebdatasetBuilder):
            break
    else:
        first = next(iter(sections.values()))
        kept = ("vis_processor", "text_processor")
        name, section = "cc_sbu", {key: first[key] for key in kept if key in first}
    storage = {SHARDS: expand_shards(pattern, "--shards")}
    info = {**section.get("build_info", {}), "storage": storage}
    cfg.config.datasets = {name: {**section, "build_info": info}}


def splits_to_evaluate(datasets: "Datasets", cfg: "Config", wanted: str | None) -> list[str]:
    """The split that `--split` names, else those of `run.test_splits`, else the first held-out one.

    Raises:
        ConfigError: if there is none, or no data set has it.
    """
    from minigpt4.common.errors import ConfigError, nearest

    there = list(dict.fromkeys(split for _, by_split in datasets.values() for split in by_split))
    trained = cfg.run_value("train_splits")
    splits = [wanted] if wanted else cfg.run_value("test_splits")
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


def load(dataset: Any, args: argparse.Namespace, cfg: "Config", prompts: Any) -> Any:
    """The batches of a split, once and in order, while the block is entered; `prompts` are the model's."""
    from torch.utils.data import DataLoader

    from minigpt4.datasets.collate import BatchStream
    from minigpt4.datasets.workers import read_by_workers

    limit = cfg.run_value("max_bad_fraction")
    batches = BatchStream(dataset, args.batch_size, limit, args.limit, prompts=prompts)
    # One worker: the order is kept, and pictures are decoded while the model works.
    return read_by_workers(DataLoader(batches, batch_size=None, num_workers=1), "evaluation")


if __name__ == "__main__":
    main()

"""Evaluate a model on held-out data, as the config's task says.

Prints each metric with its 95 % interval. `--out report.json` keeps a record of each sample; report.md holds
the table, report.png wrong and right answers. An evaluation with `--out` that was killed goes on where it
stopped. A config with `evaluation_datasets` evaluates these, each as its own task.

With `--controls`, all is done again with the pictures of other samples and with grey ones: a model that looks
is clearly worse then; one that only guesses is not.

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
    from minigpt4.commands.evaluation_work import Work
    from minigpt4.common.config import Config
    from minigpt4.common.parts import Share

log = logging.getLogger("evaluate")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__, exported=True)
    data = parser.add_mutually_exclusive_group()
    data.add_argument(
        "--split",
        metavar="S,...",
        type=_names,
        help="splits of the data sets; by default those of run.test_splits, else the first one that is not "
        "trained on; all splits of evaluation_datasets",
    )
    data.add_argument(
        "--shards", metavar="PATTERN", help="webdataset shards instead, e.g. DIR or 'DIR/{00000..00004}.tar'"
    )
    parser.add_argument(
        "--dataset", metavar="D,...", type=_names, help="these entries of evaluation_datasets; by default all"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N samples of each split")
    parser.add_argument(
        "--out", type=user_path, metavar="JSON", help="the report, with a record of each sample"
    )
    control = parser.add_mutually_exclusive_group()
    control.add_argument(
        "--shuffled",
        action="store_true",
        help="pair answers with the pictures of other samples",
    )
    control.add_argument(
        "--controls",
        action="store_true",
        help="also answer with other samples' pictures, and with grey ones (not with cached features)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="B",
        help="samples per batch; by default run.batch_size_eval (32), or what evaluation_datasets say",
    )
    add_device(parser)
    parts.add_arguments(parser)
    run(evaluate, parser.parse_args())


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def evaluate(args: argparse.Namespace) -> None:
    """Arguments, data, model, evaluation, report: one paragraph per step."""
    from minigpt4.commands.early import check_model
    from minigpt4.commands.evaluated_data import (
        SHARDS,
        splits_to_evaluate,
        use_evaluation_datasets,
        use_shards,
    )
    from minigpt4.common.config import Config
    from minigpt4.common.parts import Share

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    benchmark = bool(cfg.evaluation_datasets_cfg) and not args.shards
    if args.shards:
        use_shards(cfg, args.shards)
    elif benchmark:
        use_evaluation_datasets(cfg, args.dataset, args.split)
    share = Share.of(args)
    check_arguments(args, cfg, share)
    if not share.merge_only:
        check_model(cfg, args.device)

    from minigpt4.commands.evaluated_parts import Journal
    from minigpt4.commands.evaluation_work import Work
    from minigpt4.tasks.base_task import setup_task

    task = setup_task(cfg, default="image_text_pretrain")
    log.info("finding the data")
    datasets = task.build_datasets(cfg)
    if benchmark:
        splits = list(dict.fromkeys(split for _, by_split in datasets.values() for split in by_split))
        asked: dict[str, Any] = {"datasets": list(datasets), "splits": splits}
    else:
        splits = [SHARDS] if args.shards else splits_to_evaluate(datasets, cfg, args.split)
        asked = {"shards": args.shards} if args.shards else {"splits": splits}
    head = {"config": str(args.cfg_path), **asked, "shuffled": args.shuffled}
    head |= {"limit": args.limit} if args.limit else {}
    work = Work.of(args, cfg, task, datasets, splits, share)

    if not args.out:
        work.report([work.fill(Journal())], head)
        return
    made = {**head, "settings": cfg.to_dict(), "limit": args.limit, "controls": args.controls}
    made |= {"batch_size": args.batch_size, "ckpt": identity_of(cfg.model_cfg.get("ckpt"))}
    evaluate_in_parts(work, made, head)


def evaluate_in_parts(work: "Work", made: dict[str, Any], head: dict[str, Any]) -> None:
    """Make this share's part of the report, unless it is there, and the report once all parts are.

    Args:
        work: what is to be done.
        made: the settings that a part depends on; parts made with others are refused.
        head: how the report begins.
    """
    from minigpt4.commands.evaluated_parts import Journal, read_part
    from minigpt4.common.parts import Parts

    parts = Parts(work.args.out, work.share, "--out")
    if not work.share.merge_only:
        with parts.claimed() as path:
            if path.exists():
                read_part(path, made)
                log.info("%s is there", path)
            else:
                with Journal.of_part(path, made) as journal:
                    work.fill(journal)
    parts.merge(lambda paths: work.report([read_part(path, made) for path in paths], head))


def identity_of(ckpt: str | None) -> list[int] | None:
    """Size and time of a local checkpoint, which may be overwritten under the same name."""
    path = Path(expanded(ckpt or ""))
    return [path.stat().st_size, path.stat().st_mtime_ns] if path.is_file() else None


def check_arguments(args: argparse.Namespace, cfg: "Config", share: "Share") -> None:
    """Raise ConfigError for what would only fail after the work, or come to nothing."""
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import require_writable

    for name, value in (("--limit", args.limit), ("--batch-size", args.batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value}, it must be at least 1")
    size = args.batch_size or cfg.run_value("batch_size_eval")
    for name, value in (("--batch-size", size), ("--limit", args.limit)):
        if (args.shuffled or args.controls) and value == 1:
            option = "--shuffled" if args.shuffled else "--controls"
            raise ConfigError(f"{option} exchanges the pictures of a batch: {name} must be at least 2")
    if args.dataset and (args.shards or not cfg.evaluation_datasets_cfg):
        raise ConfigError("--dataset names entries of evaluation_datasets, which the config does not have")
    if args.out:
        require_writable(args.out, "--out")
    elif share.count > 1:
        raise ConfigError(f"--out is missing: the {share.count} shares are merged into it")


if __name__ == "__main__":
    main()

"""Train what a YAML describes: stage 1 aligns an image encoder with a language model.

example:
  python train.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml
  python train.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml \\
      --options run.max_epoch=1 model.model_type=tiny_llama
  python train.py --cfg-path ... --resume auto           # go on with the newest checkpoint, if there is one
  torchrun --nproc-per-node 4 train.py --cfg-path ...    # on four cards
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt4.common.cli import config_parser, run

if TYPE_CHECKING:
    from minigpt4.common.config import Config
    from minigpt4.runners.settings import RunSettings

log = logging.getLogger("train")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument(
        "--resume",
        metavar="C",
        help="a checkpoint to resume from, or auto: the newest of run.output_dir (run.resume_ckpt_path)",
    )
    run(train, parser.parse_args())


def train(args: argparse.Namespace) -> None:
    """Config, data, model, training, report: one paragraph per step."""
    from minigpt4.common.config import Config

    # The config is checked before anything heavy is imported.
    cfg = Config(args)
    if args.resume:
        cfg.run_cfg.resume_ckpt_path = args.resume
    settings = cfg.run_settings()
    check_early(cfg, settings)

    from minigpt4.common.registry import registry
    from minigpt4.runners.evaluation import check_splits
    from minigpt4.runners.reporting.reporter import report_table
    from minigpt4.runners.reporting.summary import end_summary
    from minigpt4.tasks.base_task import setup_task

    log.info("finding the datasets")
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    check_splits(datasets, settings)

    log.info("building the model")
    model = task.build_model(cfg, device=settings.device, datasets=datasets)

    log.info("training")
    runner_class = registry.get_runner_class(settings.runner)
    runner = runner_class(cfg=cfg, task=task, model=model, datasets=datasets, settings=settings)
    report = runner.train()

    if runner.accelerator.is_main_process and not settings.evaluate:
        if settings.test_splits:
            print(f"\n{report_table(report)}")
        print(f"\n{end_summary(report, cfg, datasets, settings)}")
    runner.accelerator.end_training()  # ranks wait for each other


def check_early(cfg: "Config", settings: "RunSettings") -> None:
    """Raise ConfigError for what only the place, the device and the files show, not the config alone."""
    from minigpt4.datasets.builders.base_dataset_builder import check_datasets
    from minigpt4.runners.output_folder import check_output, check_unused

    folder = Path(settings.output_dir)
    if not settings.evaluate:
        check_output(folder)
        check_unused(folder)
    for builder in check_datasets(cfg.datasets_cfg).values():
        builder.check_paths()

    from minigpt4.commands.early import check_model  # these import torch
    from minigpt4.runners.checkpoints import check_resumable

    check_model(cfg, settings.device)
    check_resumable(settings.resume_ckpt_path)


if __name__ == "__main__":
    main()

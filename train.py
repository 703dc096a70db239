#!/usr/bin/env python
"""Train what a YAML describes: stage 1 aligns an image encoder with a language model.

example:
  python train.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml
  python train.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml \\
      --options run.max_epoch=1 model.model_type=tiny_llama
"""

import argparse
import logging
import sys

log = logging.getLogger("train")


def parse_args() -> argparse.Namespace:
    """Read the command line; `--help` answers before anything heavy is imported."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg-path", required=True, metavar="F", help="the YAML of the experiment")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="a.b=c", help="settings that override the YAML's"
    )
    return parser.parse_args()


def main() -> None:
    """Config, datasets, model, training, report."""
    args = parse_args()

    from minigpt4.common.config import Config
    from minigpt4.common.errors import UserError
    from minigpt4.common.logger import setup_logger

    setup_logger()
    try:
        train(Config(args), args.cfg_path)
    except UserError as error:
        sys.exit(f"error: {error}")


def train(cfg, cfg_path: str) -> None:  # noqa: ANN001 (its class is imported late)
    """One paragraph a step."""
    from minigpt4.common.config import bind
    from minigpt4.common.registry import registry
    from minigpt4.runners.report import report_table
    from minigpt4.runners.settings import RunSettings
    from minigpt4.tasks.base_task import setup_task

    # Settings are checked before anything is loaded.
    settings = RunSettings(**bind(RunSettings, cfg.run_cfg, where="run"))
    task = setup_task(cfg)

    log.info("finding the datasets")
    datasets = task.build_datasets(cfg)

    log.info("building the model")
    model = task.build_model(cfg, device=settings.device)

    log.info("training")
    runner_class = registry.get_runner_class(settings.runner)
    runner = runner_class(cfg=cfg, task=task, model=model, datasets=datasets)
    report = runner.train()

    if not settings.evaluate:
        checkpoint = runner.output_dir / "checkpoint_latest.pth"
        print(f"\n{report_table(report)}\n\nChat with it:")
        print(f"  python demo.py --cfg-path {cfg_path} --options model.ckpt={checkpoint}")


if __name__ == "__main__":
    main()

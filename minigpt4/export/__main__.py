"""Write a trained model as a folder that transformers loads without this package (docs/export.md).

example:
  minigpt4 export --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --out exported/tiny_gemma
  minigpt4 export --cfg-path train_configs/mine.yaml --out exported/mine --format llava \\
      --options model.ckpt=output/mine/checkpoint_best.pth
"""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from minigpt4.common.cli import config_parser, run, user_path

if TYPE_CHECKING:
    from minigpt4.common.config import Config

log = logging.getLogger("export")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="a folder that is new")
    parser.add_argument(
        "--format",
        choices=("blip2", "llava"),
        help="the class of transformers; by default blip2 for eva_clip_g with a Q-Former, else llava",
    )
    parser.add_argument(
        "--push",
        metavar="ORG/NAME",
        help="also upload it, as a new private repository of the hub",
    )
    run(export, parser.parse_args())


def export(args: argparse.Namespace) -> None:
    """Arguments, model, folder, upload: one paragraph per step."""
    from minigpt4.common.config import Config
    from minigpt4.common.files import require_new

    # All of this is checked before anything heavy is imported.
    cfg = Config(args)
    require_new(args.out, "--out")
    if args.push:
        from minigpt4.weights.hub import require_new_repo

        require_new_repo(args.push, "--push")

    form = write(cfg, args.out, args.format)
    files = [path for path in args.out.iterdir() if path.is_file()]
    from minigpt4.common.formatting import format_bytes

    size = format_bytes(sum(path.stat().st_size for path in files))
    log.info("%s: %d files, %s, for transformers' %s", args.out, len(files), size, form)

    if args.push:
        from minigpt4.weights.hub import push

        log.info("uploaded to %s", push(args.out, args.push, "--push"))


def write(cfg: "Config", out: Path, form: str | None) -> str:
    """Build the model on the CPU, in the precisions that it is written in, and write it. Returns the form."""
    import torch

    from minigpt4.common.config import plain
    from minigpt4.common.device import dtypes_as_named
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.registry import registry
    from minigpt4.export.card import Notes
    from minigpt4.export.folder import DENSE, write_folder
    from minigpt4.models.settings import QUANTIZED
    from minigpt4.processors.base_processor import processors_of

    settings = cfg.model_settings()
    if not settings.ckpt:
        raise ConfigError("model.ckpt is not set: without a trained projection there is nothing to export")
    if settings.tokens_per_frame is not None:
        raise ConfigError("model.tokens_per_frame is set: no stock model averages the tokens of a picture")
    model_cfg = plain(cfg.model_cfg) | {"vit_precision": "fp32", "low_resource": False, "compile": False}
    if settings.low_resource or settings.llm_precision in QUANTIZED:
        model_cfg["llm_precision"] = DENSE
    images, _ = processors_of(plain(cfg.datasets_cfg), "train", settings.image_size)
    log.info("building the model")
    with dtypes_as_named(), torch.no_grad():
        model = registry.get_model_class(settings.arch).from_config(model_cfg, device="cpu").eval()
        log.info("writing %s", out)
        return write_folder(out, model, settings, images, form, Notes.of(settings.ckpt))


if __name__ == "__main__":
    main()

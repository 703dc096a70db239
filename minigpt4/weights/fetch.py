"""Fetch and check all weights that a YAML needs, ahead of time, and say where they are.

example:
  minigpt4 fetch --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml
  minigpt4 fetch --cfg-path eval_configs/minigpt4_tiny_gemma_eval.yaml --check
"""

import argparse
import sys
from typing import TYPE_CHECKING

from minigpt4.common.cli import config_parser, run
from minigpt4.common.formatting import format_bytes, format_table

if TYPE_CHECKING:
    from minigpt4.common.config import Config
    from minigpt4.weights.resolver import WeightSource

HEADER = ("key", "", "size", "source", "path")


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument(
        "--check", action="store_true", help="download nothing; exit with 1 if something is missing"
    )
    run(fetch, parser.parse_args())


def fetch(args: argparse.Namespace) -> None:
    """Sources from the config, a row for each, a table; exit with 1 unless everything is there."""
    from minigpt4.common.config import Config

    sources = find_sources(Config(args))
    examined = [examine(source, download=not args.check) for source in sources]
    print(format_table([HEADER, *(row for row, _ in examined)]))
    problems = [problem for _, problem in examined if problem]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    sys.exit(1 if problems else 0)


def find_sources(cfg: "Config") -> list["WeightSource"]:
    """All that a config wants weights from."""
    from minigpt4.common.config import plain
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.registry import registry
    from minigpt4.weights.resolver import WeightSource

    if "arch" not in cfg.model_cfg:
        raise ConfigError(f"{cfg.args.cfg_path}: no section `model:`, so no weights are needed")
    model_class = registry.get_model_class(cfg.model_cfg.arch)
    sources = model_class.weight_sources(plain(cfg.model_cfg))
    resumed = cfg.run_cfg.get("resume_ckpt_path")
    return sources + ([WeightSource("run.resume_ckpt_path", resumed, "file")] if resumed else [])


def examine(source: "WeightSource", *, download: bool) -> tuple[tuple[str, ...], str]:
    """Return a row of the table and, if something is wrong, a sentence that says what.

    Args:
        source: what is wanted.
        download: whether it is fetched if it is not there, and checked if it is.
    """
    from minigpt4.common.errors import ConfigError
    from minigpt4.weights.resolver import locate, resolve_source

    problem = ""
    try:
        if download:
            resolve_source(source)
    except ConfigError as error:
        problem = str(error)  # the others are fetched all the same
    try:
        location = locate(source)
    except ConfigError as error:
        return (source.key, "missing", "", source.shown, ""), str(error)
    place = str(location.path or "")
    if location.present:
        return (source.key, "present", format_bytes(location.size), source.shown, place), problem
    lacks = f": it lacks {', '.join(location.lacks)}" if location.lacks else ""
    problem = problem or f"{source.key}: {source.shown} is not on this disk{lacks}"
    return (source.key, "missing", "", source.shown, place), problem


if __name__ == "__main__":
    main()

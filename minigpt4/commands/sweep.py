"""Train what a YAML describes for several language models, over one cache of image tokens, and compare them.

The encoder and Q-Former look at each picture once (`minigpt4 cache-features`). Each language model then has
`train` and `evaluate --controls` in processes of its own, one after the other, in DIR/NAME with a YAML of its
own. With --solved, training begins with what `minigpt4 solve-projection` gives. Run the command again to go
on after an interruption, or with further language models: what is finished is not repeated. DIR/sweep.md,
sweep.json and sweep.png compare all runs in DIR.

A language model is a folder, a hub id, a .gguf file, or a model type, of which only the language model and
its prompts are taken.

example:
  python sweep.py --cfg-path train_configs/minigpt4_tiny_gemma_stage1_pretrain.yaml \\
      --llm tiny_gemma tiny_llama --out output/sweep
"""

import argparse
import json
import logging
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common.cli import config_parser, run, user_path

if TYPE_CHECKING:
    from minigpt4.common.config import Config

log = logging.getLogger("sweep")

# What a model type says of its language model, and what a bare language model begins with.
LANGUAGE_KEYS = ("llama_model", "llm_backbone", "llm_precision", "llm_sanity_check", "prompt_path")
BARE = {"llm_backbone": "auto", "llm_type": None, "prompt_template": None, "end_sym": None}
CACHED = "cached_features"
SOLVED = "solved.pth"
# What else is in the folder of a sweep.
TAKEN = {"features": "the cache", **dict.fromkeys(("sweep.md", "sweep.json", "sweep.png"), "the comparison")}
STOPPED = (130, 143)


def main() -> None:
    """The command line; `--help` answers before anything heavy is imported."""
    parser = config_parser(__doc__)
    parser.add_argument("--llm", nargs="+", required=True, metavar="M", help="the language models")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--solved", action="store_true", help="begin with a projection in closed form")
    parser.add_argument("--limit", type=int, metavar="N", help="evaluate only the first N samples of a split")
    run(sweep, parser.parse_args())


def sweep(args: argparse.Namespace) -> None:
    """Configs, cache, runs, comparison: one paragraph per step."""
    from minigpt4.common.config import Config
    from minigpt4.common.errors import ConfigError

    # All is checked before anything heavy is imported or started.
    cfg = Config(args)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is {args.limit}, it must be at least 1")
    if args.solved and (ckpt := cfg.model_settings().ckpt):
        raise ConfigError(f"--solved makes the checkpoint to begin with, but model.ckpt is {ckpt}")
    datasets = over_cache(cfg, args.out / "features")
    folders = folders_of(args.llm, args.out)
    for llm, folder in folders.items():
        describe(folder, cfg, datasets, llm, solved=args.solved)
        check_limit(folder / "evaluation.json", args.limit)

    if CACHED not in builders(cfg).values():
        words = ["--cfg-path", str(args.cfg_path), "--out", str(args.out / "features")]
        options = ["--options", *args.options] if args.options else []
        if code := start("cache-features", *words, *options):
            sys.exit(code)

    failed = []
    for llm, folder in folders.items():
        log.info("%s: %s", llm, folder)
        if code := train_and_evaluate(folder, args.limit, solved=args.solved):
            if code in STOPPED:
                sys.exit(code)
            failed.append(llm)

    from minigpt4.commands.sweep_report import read_runs, write_report

    if runs := read_runs(args.out):
        write_report(runs, args.out)
    if failed:
        sys.exit(f"error: {', '.join(failed)}: no result; the error stands above")


def train_and_evaluate(folder: Path, limit: int | None, *, solved: bool) -> int:
    """Do what is not done yet of a run; 0, or the exit code of what failed."""
    from minigpt4.runners.checkpoints import BEST, LATEST

    config = ["--cfg-path", str(folder / "config.yaml")]
    if not (folder / "report.json").exists():
        if solved and not (folder / SOLVED).exists():
            words = [*config, "--out", str(folder / SOLVED), "--options", "model.ckpt=null"]
            if code := start("solve-projection", *words):
                return code
        if code := start("train", *config, "--resume", "auto"):
            return code
    evaluation = folder / "evaluation.json"
    if evaluation.exists():
        return 0
    checkpoint = folder / (BEST if (folder / BEST).exists() else LATEST)
    words = [*config, "--controls", "--out", str(evaluation), *(["--limit", str(limit)] if limit else [])]
    return start("evaluate", *words, "--options", f"model.ckpt={checkpoint}")


def start(*words: str) -> int:
    """Run a command of ours in a process of its own, which may finish its step when it is stopped.

    Returns:
        Its exit code.
    """
    child = subprocess.Popen([sys.executable, "-m", "minigpt4", *words])
    usual = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        return child.wait()
    except KeyboardInterrupt:  # the terminal has told it, too
        return child.wait() or STOPPED[0]
    finally:
        signal.signal(signal.SIGTERM, usual)


def builders(cfg: "Config") -> dict[str, str]:
    """Entry of `datasets:` -> the name of its builder."""
    return {str(name): entry.get("builder") or str(name) for name, entry in cfg.datasets_cfg.items()}


def over_cache(cfg: "Config", cache: Path) -> dict[str, Any]:
    """The section `datasets:` of all runs.

    Args:
        cfg: of the sweep.
        cache: where the cache of its pictures goes, unless it names one itself.

    Raises:
        ConfigError: unless there is one data set, or all of them are cached.
    """
    from minigpt4.common.errors import ConfigError

    entries = cfg.to_dict().get("datasets") or {}
    if entries and set(builders(cfg).values()) == {CACHED}:
        return entries
    if len(entries) != 1:
        raise ConfigError(
            f"datasets: a sweep caches the pictures of one data set, the config has {len(entries)}; cache "
            f"each with `minigpt4 cache-features`, and name the caches with `builder: {CACHED}`"
        )
    (entry,) = entries.values()
    kept = {key: value for key, value in entry.items() if key not in ("builder", "data_type", "build_info")}
    return {CACHED: kept | {"build_info": {"storage": str(cache)}}}


def folders_of(llms: Sequence[str], out: Path) -> dict[str, Path]:
    """Language model -> the folder of its run, which has the last part of its name.

    Raises:
        ConfigError: for two with the same one, be it in other case, or one that is taken.
    """
    from minigpt4.common.errors import ConfigError

    folders: dict[str, Path] = {}
    taken = dict(TAKEN)
    for llm in llms:
        name = re.sub(r"[^\w.-]+", "_", Path(llm.rstrip("/")).name.removesuffix(".gguf")).lstrip(".") or "llm"
        if other := taken.get(name.lower()):
            raise ConfigError(
                f"--llm: the run of {llm} would be in {out / name}, where {other} is: please rename it"
            )
        taken[name.lower()] = f"that of {llm}"
        folders[llm] = out / name
    return folders


def describe(folder: Path, cfg: "Config", datasets: dict[str, Any], llm: str, *, solved: bool) -> None:
    """Write the YAML of a run, or check that the one that is there says the same.

    Args:
        folder: of the run.
        cfg: of the sweep.
        datasets: the section of that name.
        llm: the language model.
        solved: whether it begins with a projection in closed form, which is still to be made.

    Raises:
        ConfigError: for a run that cannot be, or that was begun with other settings.
    """
    import yaml

    from minigpt4.commands.early import check_model
    from minigpt4.common.config import Config, config_changes, load_yaml, plain
    from minigpt4.common.errors import ConfigError
    from minigpt4.common.files import replacing

    content = cfg.to_dict() | {"datasets": datasets}
    content["model"] = {**content["model"], **language_of(llm, cfg)}
    if solved:
        content["model"]["ckpt"] = str(folder / SOLVED)
    content["run"] = {**(content.get("run") or {}), "output_dir": str(folder)}
    path = folder / "config.yaml"
    if path.exists():
        if changes := config_changes(plain(load_yaml(path)), content, ()):
            raise ConfigError(
                f"{folder} holds a run with other settings ({'; '.join(changes)}): please choose another "
                "--out, or delete that folder"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    try:
        own = Config(argparse.Namespace(cfg_path=path, options=["model.ckpt=null"] if solved else []))
        check_model(own, own.run_settings().device)
    except ConfigError:
        path.unlink()
        raise


def check_limit(evaluation: Path, limit: int | None) -> None:
    """Raise ConfigError for a report of fewer or more samples than the others will have."""
    from minigpt4.common.errors import ConfigError, reading

    if not evaluation.exists():
        return
    with reading(evaluation, ConfigError, failed="{} is damaged, please delete it to evaluate again"):
        found = json.loads(evaluation.read_text(encoding="utf-8")).get("limit")
    if found != limit:
        then, now = (f"with --limit {one}" if one else "without --limit" for one in (found, limit))
        raise ConfigError(f"{evaluation} was made {then}, this is {now}: please delete it to evaluate again")


def language_of(llm: str, cfg: "Config") -> dict[str, Any]:
    """What a run with this language model says under `model:`, unless `--options` or the YAML do.

    The YAML's own language model, and how it is spoken to, give way.
    """
    from minigpt4.common.config import CONFIG_DIR, load_yaml, plain

    types = type(cfg.model_settings()).TYPES
    own: dict[str, Any] = {**BARE, "llama_model": llm}
    if llm in types:
        section = plain(load_yaml(CONFIG_DIR / types[llm]).model)
        own = {**BARE, **{key: section[key] for key in LANGUAGE_KEYS if key in section}}
    options = {word.partition("=")[0].removeprefix("model.") for word in cfg.args.options}
    written = set(load_yaml(cfg.args.cfg_path).get("model") or ()) - {*BARE, "llama_model"}
    return {key: value for key, value in own.items() if key not in options | written}


if __name__ == "__main__":
    main()

"""The command line: `minigpt4 COMMAND`, or `python -m minigpt4 COMMAND`."""

import importlib
import sys

COMMANDS = {
    "train": "minigpt4.commands.train",
    "evaluate": "minigpt4.commands.evaluate",
    "sweep": "minigpt4.commands.sweep",
    "solve-projection": "minigpt4.commands.solve_projection",
    "reproduce": "minigpt4.commands.reproduce",
    "chat": "minigpt4.commands.chat",
    "infer": "minigpt4.commands.infer",
    "serve": "minigpt4.commands.serve",
    "export": "minigpt4.export.__main__",
    "fetch": "minigpt4.weights.fetch",
    "validate": "minigpt4.datasets.validate",
    "check-shards": "minigpt4.commands.check_shards",
    "cache-features": "minigpt4.commands.cache_features",
    "export-adapter": "minigpt4.commands.export_adapter",
    "convert-data": "minigpt4.datasets.convert",
    "convert-captions": "minigpt4.commands.convert_captions",
    "download-minigptv2": "minigpt4.commands.download_minigptv2",
    "describe-config": "minigpt4.commands.describe_config",
}


def main() -> None:
    """Run the command that the first argument names; without one, say which there are."""
    from minigpt4.common.errors import nearest

    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name in COMMANDS:
        sys.argv = [f"minigpt4 {name}", *rest]
        importlib.import_module(COMMANDS[name]).main()
    else:
        sys.exit(f"error: no command {name!r}{nearest(name, COMMANDS)} (known: {', '.join(COMMANDS)})")


def usage() -> str:
    """The commands, with the first line of what each says of itself."""
    lines = ["usage: minigpt4 COMMAND ...    (minigpt4 COMMAND --help says more)", ""]
    for name, module in COMMANDS.items():
        about = (importlib.import_module(module).__doc__ or "").splitlines()[0]
        lines.append(f"  {name:20}{about}")
    return "\n".join(lines)

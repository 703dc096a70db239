"""What the commands share: their first arguments, and how they end after a user's mistake."""

import argparse
import contextlib
import io
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from minigpt4.common.files import expanded


def user_path(text: str) -> Path:
    """An argument that is a path, with `~` and `$NAME` resolved: a shell leaves them alone in `--out=~/a`."""
    return Path(expanded(text))


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser whose `--help` shows a text as it is written, and which takes options by their whole names."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def config_parser(
    description: str | None, *, exported: bool = False, default: str | None = None
) -> argparse.ArgumentParser:
    """A parser with the original's `--cfg-path` and `--options`.

    Args:
        description: what `--help` says.
        exported: whether the command also takes `--model`, a folder of `minigpt4 export`.
        default: the YAML where none is named; None: one must be named.
    """
    parser = new_parser(description)
    which = parser.add_mutually_exclusive_group(required=default is None)
    which.add_argument("--cfg-path", metavar="F", default=default, help="the YAML of the experiment")
    if exported:
        which.add_argument(
            "--model", dest="cfg_path", metavar="DIR", help="instead, a folder that `minigpt4 export` wrote"
        )
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="a.b=c", help="settings that override the YAML's"
    )
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback behind an error, with its causes"
    )
    return parser


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add `--device`, to a parser or to a group of one."""
    parser.add_argument(
        "--device", metavar="D", help="cuda, cuda:1, mps (untested) or cpu; the best one by default"
    )


def run(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run a command; after a user's mistake it ends with one line, or with `--debug` a traceback above it."""
    try:
        _run(command, args)
    except OSError:
        _end_output("\n")  # fails as well if the output is what could not be written
        raise
    except SystemExit:
        _end_output()
        raise
    _end_output()


def _run(command: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    # Imported late, so that --help answers at once.
    from minigpt4.common import launch
    from minigpt4.common.errors import Interrupted, UserError
    from minigpt4.common.logger import setup_logger

    setup_logger()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files need not be UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        command(args)
    except Interrupted as stop:
        if launch.rank() == 0:  # all stop together
            with contextlib.suppress(OSError):  # what stopped us may have ended the reader of our output
                print(f"\n{stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except UserError as error:
        if getattr(args, "debug", False):
            traceback.print_exc()
        sys.exit(f"error{f' on rank {launch.rank()}' if launch.rank() else ''}: {error}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


def _end_output(last: str = "") -> None:
    """Write out what was printed. If the reader has gone (`... | head`), exit as the shell's own tools do."""
    try:
        print(end=last, flush=True)
    except OSError as error:
        # Otherwise the interpreter tries again when it exits, and prints an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + 13)  # SIGPIPE
        sys.exit(f"error: the output could not be written: {error.strerror}")

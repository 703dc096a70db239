"""Errors that the user can fix. The commands print them as one line, without a traceback."""

import difflib
import re
from collections.abc import Iterable
from typing import Any

# What torch puts before a message from a loader's worker: a whole traceback.
_FROM_WORKER = re.compile(r"^Caught \w+ in DataLoader worker .*\nminigpt4\.[\w.]+: ", re.DOTALL)


class UserError(Exception):
    """Something outside the code is wrong; the message says where, what, and what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(_FROM_WORKER.sub("", message).rstrip())


class ConfigError(UserError):
    """A YAML key or a command-line argument cannot be used."""


class DataError(UserError):
    """Shards, images or texts cannot be used."""


class TrainingError(UserError):
    """Training cannot continue."""


class Interrupted(UserError):
    """A command was asked to stop, and did.

    Args:
        message: where it stopped, and how to resume.
        number: the signal's.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # as a shell reports it


class BadSample(Exception):
    """One image or text is skipped; the message is the reason, by which data sets count them."""


class BadText(BadSample, ValueError):
    """What someone says cannot be given to a tokenizer."""


class CheckpointError(UserError):
    """A file of weights cannot be used, or does not fit the model."""


def nearest(name: Any, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name that looks most like `name`, else an empty string."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""

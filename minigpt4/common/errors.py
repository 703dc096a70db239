"""Errors that the user can fix. The commands print them as one line, without a traceback."""

import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class TooLong(DataError):
    """A question does not fit into the model's context.

    Args:
        message: with the reason.
        room: tokens that fit.
    """

    def __init__(self, message: str, room: int) -> None:
        super().__init__(message)
        self.room = room


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
    """One sample is skipped; the message is the reason, by which skipped samples are counted."""


class BadText(BadSample, ValueError):
    """A text cannot be tokenised."""


class CheckpointError(UserError):
    """A file of weights cannot be used, or does not fit the model."""


# Characters of a library's message.
LONGEST = 300


@contextmanager
def reading(
    place: Any, kind: type[UserError] = CheckpointError, *, failed: str = "{} could not be read"
) -> Iterator[None]:
    """Turn any exception while reading an untrusted file into a one-line error that names the file.

    Libraries raise all kinds of exceptions for damaged files, so every exception counts as the file's fault.
    It is kept as the cause.

    Args:
        place: the file or folder.
        kind: the type of the error that is raised.
        failed: the beginning of its message; `{}` stands for the place.

    Raises:
        UserError: of this kind; a UserError or BadSample from the block is not changed.
    """
    try:
        yield
    except (UserError, BadSample):
        raise
    except BaseException as error:
        # A panic of a Rust library is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise kind(f"{failed.format(place)} ({in_short(error)})") from error


def in_short(error: BaseException) -> str:
    """An exception as one short line."""
    shown = one_line(error)
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def one_line(message: object) -> str:
    """What a library or a server says, on one line and not too long."""
    text = " ".join(str(message).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def nearest(name: Any, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name that looks most like `name`, else an empty string."""
    matches = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""

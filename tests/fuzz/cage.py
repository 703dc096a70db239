"""A forked process in which something is read that may be hostile: what it may use, and how it ended."""

import io
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from minigpt4.common.errors import UserError

MEMORY = 2 * 2**30  # bytes, beyond what the process has at its start
SECONDS, PATIENCE = 20, 90  # of computing, and of waiting on a busy machine
LINES, LETTERS = 12, 10_000  # of an error; lists of bad lines have several
CANARY = "CANARY"  # a file that whatever is run makes
OUTSIDE = "outside"  # a file beside the folder, which holds its own name

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
STARTS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile", "pty.spawn"}
NETWORK = {"socket.getaddrinfo", "socket.connect"}
LOCAL = ("127.0.0.1", "::1", "localhost", "", None)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: `fine`, `refused` (with an error of our own), or a fault in a word."""

    kind: str
    said: str = ""
    seconds: float = 0.0

    @property
    def is_fault(self) -> bool:
        return self.kind not in ("fine", "refused")


def attempt(read: Callable[[Path], Any], folder: Path) -> Outcome:
    """Read in a process that may write below `folder` alone, start nothing, and ask no other machine."""
    begun, (answers, answer) = time.monotonic(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(answers)
        _child(read, folder, answer)
    os.close(answer)
    status = None
    while status is None and time.monotonic() - begun < PATIENCE:
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # and what it has started
    if status is None:
        os.waitpid(child, 0)
    with os.fdopen(answers, "rb") as file:
        os.set_blocking(file.fileno(), False)
        kind, _, said = (file.read() or b"").decode(errors="replace").partition("\n")
    seconds = time.monotonic() - begun
    if status is None or status == signal.SIGXCPU:
        return Outcome("hangs", f"after {seconds:.0f} s", seconds)
    if not kind:
        return Outcome("dies", f"status {os.waitstatus_to_exitcode(status)}", seconds)
    return Outcome(kind, said, seconds)


def _child(read: Callable[[Path], Any], folder: Path, answer: int) -> NoReturn:
    os.setsid()
    kind, said = "dies", ""
    try:
        console = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # of libraries that are not Python's
            os.dup2(console, stream)
        tempfile.tempdir = str(folder)
        torch.set_num_threads(1)  # others would not have lived through the fork
        os.chdir(folder)
        sys.dont_write_bytecode = True
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        crimes = _watch(folder.resolve())
        kind, said = _outcome(read, folder)
        if crimes:
            kind, said = "escapes", "\n".join(crimes)
        elif folder.with_name(OUTSIDE).read_text() != OUTSIDE:
            kind, said = "escapes", f"{OUTSIDE} has changed"
        elif list(folder.parent.rglob(CANARY)):
            kind, said = "runs code", CANARY
    finally:
        os.write(answer, f"{kind}\n{said}".encode(errors="replace")[:60_000])
        os._exit(0)


def _outcome(read: Callable[[Path], Any], folder: Path) -> tuple[str, str]:
    console = io.StringIO()
    try:
        with redirect_stdout(console), redirect_stderr(console):
            read(folder)
    except UserError as error:
        return _said(str(error))
    except SystemExit as end:  # as the commands end
        return _said(str(end.code)) if end.code else ("fine", "")
    except BaseException:
        return "traceback", traceback.format_exc()
    return "fine", ""


def _said(message: str) -> tuple[str, str]:
    too_long = len(message) > LETTERS or message.count("\n") > LINES or not message.strip()
    return "babbles" if too_long else "refused", message


def _watch(folder: Path) -> list[str]:
    """Have what leaves the cage fail, and be told of in the list that is returned."""
    crimes: list[str] = []

    def refuse(event: str, arguments: Any) -> NoReturn:
        crimes.append(f"{event} {arguments!r:.300}\n{''.join(traceback.format_stack(limit=12))}")
        raise PermissionError(f"the cage forbids {event}")

    def leaves(place: Any, follow: bool) -> bool:
        if isinstance(place, int):
            return False  # of an open file
        folder_of, name = os.path.split(os.path.abspath(os.fsdecode(place)))
        # To open follows a link; to rename or to remove is done to the link itself.
        path = Path(os.path.realpath(os.path.join(folder_of, name) if follow else folder_of))
        allowed = (folder, Path(os.devnull), Path(f"/proc/{os.getpid()}"))
        return not any(path.is_relative_to(one) for one in allowed)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = flags & WRITING if mode is None else set("wax+") & set(str(mode))
            if writes and path is not None and leaves(path, True):
                refuse(event, arguments)
        elif event in CHANGES:
            if any(
                leaves(place, event == "os.truncate")
                for place in arguments
                if isinstance(place, str | bytes | Path)
            ):
                refuse(event, arguments)
        elif event in STARTS:
            if arguments[0] != sys.executable:  # a reader of ours that can be ended
                refuse(event, arguments)
        elif event in NETWORK:
            address = arguments[1] if event == "socket.connect" else arguments
            if isinstance(address, tuple) and address[0] not in LOCAL:
                refuse(event, arguments)
        elif event == "exec" and str(arguments[0].co_filename).startswith(str(folder)):
            refuse(event, arguments[0].co_filename)

    sys.addaudithook(hear)
    return crimes

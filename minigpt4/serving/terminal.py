"""A dialogue in the terminal."""

import contextlib
import shlex
import sys
from collections.abc import Callable
from typing import Any

from minigpt4.common.errors import UserError
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.replies import Reply

HELP = """Ask something, or:
  /image FILE ...   show pictures with the next question
  /retry            another reply to the last question
  /undo             take back the last question
  /history          what was said
  /reset            begin anew
  /quit             leave; also Ctrl-D. Ctrl-C ends a reply"""


class TerminalChat:
    """Reads lines and prints replies.

    Args:
        model: which answers.
        settings: of each reply.
        images: shown with the first question.
    """

    def __init__(self, model: ChatModel, settings: dict[str, Any], images: list[str]) -> None:
        self.model, self.settings = model, settings
        self.chat = model.start_chat()
        self.images = list(images)
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "/image": self._image,
            "/retry": self._retry,
            "/undo": lambda _: print(f"taken back: {self.chat.undo().text}"),
            "/history": self._history,
            "/reset": self._reset,
            "/help": lambda _: print(HELP),
        }

    def run(self) -> None:
        """Until the input ends, or `/quit`."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited, and the last ones are a key away
        if sys.stdin.isatty():
            print(HELP)
        while (line := self._read()) is not None:
            try:
                self._do(line)
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)

    def _read(self) -> str | None:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except KeyboardInterrupt:
            print()
            return ""
        except EOFError:
            return None
        return None if line == "/quit" else line

    def _do(self, line: str) -> None:
        if not line.startswith("/"):
            if line or self.images:
                self._show(self.chat.ask(line, self.images, stream=True, **self.settings))
                self.images = []
            return
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise UserError(f"{line!r}: {error}") from error
        if name not in self.commands:
            raise UserError(f"there is no {name} (known: {', '.join(self.commands)}, /quit)")
        self.commands[name](words)

    def _show(self, reply: Reply) -> None:
        try:
            for piece in reply:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            reply.close()
        print()
        if reply.left_out:
            print(f"({reply.left_out} earlier questions had no room)", file=sys.stderr)

    def _image(self, files: list[str]) -> None:
        if not files:
            raise UserError("/image needs the name of a file")
        self.model.message("user", "", files)  # what cannot be read is said now
        self.images += files

    def _retry(self, _: list[str]) -> None:
        self._show(self.chat.retry(stream=True))

    def _reset(self, _: list[str]) -> None:
        self.chat, self.images = self.model.start_chat(), []

    def _history(self, _: list[str]) -> None:
        for message in self.chat.history:
            shown = "[picture] " * len(message.images)
            print(f"{message.role}: {shown}{message.text}")

"""A dialogue in the terminal."""

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from minigpt4.common.errors import UserError
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.replies import Reply
from minigpt4.serving.videos import SeenVideo, VideoLike

HELP = """Ask a question, or:
  /image FILE ...   add images to the next question
  /video FILE ...   add videos to the next question
  /retry            generate the last reply again
  /undo             remove the last question
  /history          show the dialogue
  /reset            start a new dialogue
  /quit             exit; also Ctrl-D. Ctrl-C interrupts a reply"""


class TerminalChat:
    """Reads lines and prints replies.

    Args:
        model: answers the questions.
        settings: of each reply.
        images, videos: for the first question.
    """

    def __init__(
        self, model: ChatModel, settings: dict[str, Any], images: list[str], videos: Sequence[VideoLike] = ()
    ) -> None:
        self.model, self.settings = model, settings
        self.chat = model.start_chat()
        self.images = list(images)
        self.videos: list[VideoLike] = list(videos)
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "/image": self._image,
            "/video": self._video,
            "/retry": self._retry,
            "/undo": lambda _: print(f"removed: {self.chat.undo().text}"),
            "/history": self._history,
            "/reset": self._reset,
            "/help": lambda _: print(HELP),
        }

    def run(self) -> None:
        """Until the input ends, or `/quit`."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # line editing and history
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
            if line or self.images or self.videos:
                reply = self.chat.ask(line, self.images, stream=True, videos=self.videos, **self.settings)
                self._show(reply)
                self.images, self.videos = [], []
            return
        try:
            name, *words = shlex.split(line)
        except ValueError as error:
            raise UserError(f"{line!r}: {error}") from error
        if name not in self.commands:
            raise UserError(f"unknown command {name} (known: {', '.join(self.commands)}, /quit)")
        self.commands[name](words)

    def _show(self, reply: Reply) -> None:
        try:
            for piece in reply:
                print(piece, end="", flush=True)
        except KeyboardInterrupt:
            reply.close()
        print()
        if reply.left_out:
            print(f"({reply.left_out} earlier questions did not fit into the prompt)", file=sys.stderr)

    def _image(self, files: list[str]) -> None:
        if not files:
            raise UserError("/image needs a file name")
        self.model.message("user", "", files)  # report unreadable files now
        self.images += files

    def _video(self, files: list[str]) -> None:
        if not files:
            raise UserError("/video needs a file name")
        seen = self.model.message("user", "", videos=files).shown  # report unreadable files now
        self.videos += [one for one in seen if isinstance(one, SeenVideo)]

    def _retry(self, _: list[str]) -> None:
        self._show(self.chat.retry(stream=True))

    def _reset(self, _: list[str]) -> None:
        self.chat, self.images, self.videos = self.model.start_chat(), [], []

    def _history(self, _: list[str]) -> None:
        for message in self.chat.history:
            shown = "".join(
                f"[{'video' if isinstance(one, SeenVideo) else 'picture'}] " for one in message.shown
            )
            print(f"{message.role}: {shown}{message.text}")

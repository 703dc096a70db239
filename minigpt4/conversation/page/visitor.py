"""A visitor's dialogue, and how its questions are answered."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigpt4.common.errors import UserError
from minigpt4.conversation.page.line import Line
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.messages import Turn, explained
from minigpt4.conversation.page.videos import Unreadable, see
from minigpt4.serving.videos import is_video

if TYPE_CHECKING:
    from minigpt4.serving import ChatSession, Reply
    from minigpt4.serving.messages import Content
    from minigpt4.serving.pictures import Picture
    from minigpt4.serving.videos import SeenVideo

log = logging.getLogger(__name__)

# Seconds between updates of a growing reply, and of a place in the line.
PACE, PATIENCE = 0.05, 0.3


class Unanswered(Exception):
    """A question got no reply; the dialogue is as if it had not been asked.

    Args:
        reason: for the visitor; empty if the visitor stopped it.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Visitor:
    """A dialogue that is shown while it grows. One reply at a time: whoever wants one holds `busy`."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.busy = threading.Lock()
        self._session: ChatSession | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Visitor":
        """Gradio copies the first visitor for each new one."""
        return Visitor()

    def stop(self) -> None:
        """Stop the current reply."""
        for turn in self.turns[-1:]:
            turn.stop()

    def clear(self) -> None:
        """Forget the dialogue."""
        self.stop()
        self.turns, self._session = [], None

    def undo(self, turns: int = 1) -> "tuple[Turn, Sequence[Picture | SeenVideo]]":
        """Take back the last question, or several; the first of them and what it showed."""
        assert self._session is not None
        question = self._session.undo(turns)
        turn, self.turns = self.turns[-turns], self.turns[:-turns]
        return turn, question.shown


class Answering:
    """Answers visitors, first come, first served.

    Args:
        loader: of the model.
        at_once: replies that are generated concurrently; they take turns, token by token.
    """

    def __init__(self, loader: Loader, at_once: int) -> None:
        self.loader, self._line = loader, Line(at_once)

    def ask(
        self,
        visitor: Visitor,
        turn: Turn,
        shown: "Sequence[str | Picture | SeenVideo]",
        settings: dict[str, Any],
        labels: dict[str, str],
    ) -> Iterator[None]:
        """Ask a question. Yields whenever the dialogue has changed.

        Args:
            visitor: who asks.
            turn: the question.
            shown: its pictures and videos: paths, or what was read of them before.
            settings: of the reply.
            labels: the visitor's.

        Raises:
            Unanswered: if nothing was generated.
        """
        before, visitor.turns = visitor.turns, [*visitor.turns, turn]

        def begin(session: "ChatSession") -> "Reply":
            content: Content = []
            for one in shown:
                if isinstance(one, str) and is_video(one):
                    one, seen = see(one, session.model)
                    turn.films += seen
                content.append(Path(one) if isinstance(one, str) else one)
                if turn.stopped:
                    raise Unanswered
            return session.ask([*content, turn.text], stream=True, **settings)

        return self._answer(visitor, before, turn, begin, labels)

    def retry(self, visitor: Visitor, settings: dict[str, Any], labels: dict[str, str]) -> Iterator[None]:
        """Generate another reply to the last question; otherwise as `ask`."""
        before = visitor.turns
        turn = before[-1].again()
        visitor.turns = [*before[:-1], turn]

        def begin(session: "ChatSession") -> "Reply":
            return session.retry(stream=True, **settings)

        return self._answer(visitor, before, turn, begin, labels)

    def _answer(
        self,
        visitor: Visitor,
        before: list[Turn],
        turn: Turn,
        begin: "Callable[[ChatSession], Reply]",
        labels: dict[str, str],
    ) -> Iterator[None]:
        try:
            yield
            with self._line.place() as ahead:
                yield from self._until_served(turn, ahead, labels)
                if visitor._session is None:
                    assert self.loader.model is not None
                    visitor._session = self.loader.model.start_chat()
                if turn.videos and not turn.films:
                    turn.notice = labels["reading"]
                    yield
                turn.reply = begin(visitor._session)
                turn.notice = ""
                yield from _in_time(turn.reply)
        except Exception as error:
            if turn not in visitor.turns:
                return  # forgotten meanwhile
            # The session did the same: it is unchanged, or has dropped the question whose reply failed.
            visitor.turns = before if turn.reply is None else visitor.turns[:-1]
            if isinstance(error, Unanswered):
                raise
            if isinstance(error, Unreadable):
                raise Unanswered(labels["unreadable_video"].format(name=error)) from error
            if not isinstance(error, UserError):
                log.exception("no reply")
            raise Unanswered(explained(error, labels)) from error

    def _until_served(self, turn: Turn, ahead: Callable[[], int], labels: dict[str, str]) -> Iterator[None]:
        while self.loader.model is None or ahead():
            if self.loader.model is None:
                turn.notice = self.loader.progress(labels)
            else:
                turn.notice = labels["waiting"].format(ahead=ahead())
            yield
            time.sleep(PATIENCE)
            if turn.stopped:
                raise Unanswered
        turn.notice = ""


def _in_time(reply: "Reply") -> Iterator[None]:
    """Yield while the reply grows, though not for each of many fast pieces."""
    shown = 0.0
    for _ in reply:
        if time.monotonic() - shown >= PACE:
            yield
            shown = time.monotonic()

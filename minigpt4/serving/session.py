"""A dialogue with a model that remembers what was said."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from minigpt4.common.errors import DataError
from minigpt4.serving.messages import Content, Message
from minigpt4.serving.pictures import ImageLike
from minigpt4.serving.replies import Reply

if TYPE_CHECKING:
    from minigpt4.serving.chat_model import ChatModel


class ChatSession:
    """One dialogue. It costs no more than its messages: sessions of one model may be many.

    After an error it is as if the question had not been asked. A reply that was stopped stays as far as it
    came.

    Args:
        model: which answers.
        system: what stands before the first turn; None: what the model's template has there.

    Attributes:
        reply: the last one, with its numbers; None before the first.
    """

    def __init__(self, model: "ChatModel", system: str | None = None) -> None:
        self.model = model
        self.reply: Reply | None = None
        self._said: list[Message] = [] if system is None else [model.message("system", system)]
        self._settings: dict[str, Any] = {}

    @property
    def history(self) -> list[Message]:
        """What was said so far, what has come of the last reply included."""
        if self.reply is None:
            return list(self._said)
        if self.reply.finish_reason == "error":
            return self._said[:-1]
        return [*self._said, Message("assistant", (self.reply.text,))]

    @overload
    def ask(
        self,
        question: Content,
        images: Sequence[ImageLike] = (),
        stream: Literal[False] = False,
        **settings: Any,
    ) -> str: ...
    @overload
    def ask(
        self, question: Content, images: Sequence[ImageLike] = (), *, stream: Literal[True], **settings: Any
    ) -> Reply: ...
    def ask(
        self, question: Content, images: Sequence[ImageLike] = (), stream: bool = False, **settings: Any
    ) -> str | Reply:
        """Ask a question after what was said; arguments, result and errors as of `ChatModel.chat`."""
        message = self.model.message("user", question, images)
        return self._answer([*self._taken_over(), message], stream, settings)

    @overload
    def retry(self, stream: Literal[False] = False, **settings: Any) -> str: ...
    @overload
    def retry(self, *, stream: Literal[True], **settings: Any) -> Reply: ...
    def retry(self, stream: bool = False, **settings: Any) -> str | Reply:
        """Another reply to the last question, in the place of the one it has.

        Args:
            stream: as in `ask`.
            settings: changes to those of the question.

        Raises:
            DataError: before the first question.
        """
        said = self._taken_over()
        return self._answer(said[: _last_question(said) + 1], stream, {**self._settings, **settings})

    def undo(self, turns: int = 1) -> Message:
        """Take back the last question with its reply, or several.

        Returns:
            The first of the questions that were taken back.

        Raises:
            DataError: if there are fewer questions.
        """
        said = self._taken_over()
        for _ in range(turns):
            place = _last_question(said)
            question, said = said[place], said[:place]
        self._said, self.reply = said, None
        return question

    def _taken_over(self) -> list[Message]:
        """The history; a reply that is still generated ends."""
        if self.reply is not None:
            self.reply.close()
        return self.history

    def _answer(self, said: list[Message], stream: bool, settings: dict[str, Any]) -> str | Reply:
        reply = self.model.reply(said, **settings)
        self._said, self.reply, self._settings = said, reply, settings
        return reply if stream else reply.wait()


def _last_question(said: Sequence[Message]) -> int:
    places = [place for place, message in enumerate(said) if message.role == "user"]
    if not places:
        raise DataError("nothing has been asked yet")
    return places[-1]

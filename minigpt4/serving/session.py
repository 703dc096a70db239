"""A dialogue with its history."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from minigpt4.common.errors import DataError
from minigpt4.serving.messages import Content, Message
from minigpt4.serving.pictures import ImageLike
from minigpt4.serving.replies import Reply
from minigpt4.serving.videos import VideoLike

if TYPE_CHECKING:
    from minigpt4.serving.chat_model import ChatModel


class ChatSession:
    """One dialogue. It only stores messages, so one model may have many sessions.

    After an error the question is not part of the history. A stopped reply is, as far as it was generated.

    Args:
        model: answers the questions.
        system: the system text; None for the template's.

    Attributes:
        reply: the last reply, with its statistics; None before the first.
    """

    def __init__(self, model: "ChatModel", system: str | None = None) -> None:
        self.model = model
        self.reply: Reply | None = None
        self._said: list[Message] = [] if system is None else [model.message("system", system)]
        self._settings: dict[str, Any] = {}

    @property
    def history(self) -> list[Message]:
        """All messages, including the last reply as far as it was generated."""
        if self.reply is None:
            return list(self._said)
        if self.reply.finish_reason == "error":
            return self._said[:-1]
        return [*self._said, Message("assistant", (self.reply.text,))]

    @overload
    def ask(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        stream: Literal[False] = False,
        videos: VideoLike | Sequence[VideoLike] = ...,
        **settings: Any,
    ) -> str: ...
    @overload
    def ask(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        *,
        stream: Literal[True],
        videos: VideoLike | Sequence[VideoLike] = ...,
        **settings: Any,
    ) -> Reply: ...
    def ask(
        self,
        question: Content,
        images: ImageLike | Sequence[ImageLike] = (),
        stream: bool = False,
        videos: VideoLike | Sequence[VideoLike] = (),
        **settings: Any,
    ) -> str | Reply:
        """Ask the next question. Arguments, result and errors are those of `ChatModel.chat`."""
        message = self.model.message("user", question, images, videos)
        return self._answer([*self._stopped_history(), message], stream, settings)

    @overload
    def retry(self, stream: Literal[False] = False, **settings: Any) -> str: ...
    @overload
    def retry(self, *, stream: Literal[True], **settings: Any) -> Reply: ...
    def retry(self, stream: bool = False, **settings: Any) -> str | Reply:
        """Generate the reply to the last question again, replacing it.

        Args:
            stream: as for `ask`.
            settings: override those of the question.

        Raises:
            DataError: before the first question.
        """
        said = self._stopped_history()
        return self._answer(said[: _last_question(said) + 1], stream, {**self._settings, **settings})

    def undo(self, turns: int = 1) -> Message:
        """Remove the last questions and their replies.

        Returns:
            The first question that was removed.

        Raises:
            DataError: if there are fewer questions.
            ValueError: if `turns` is less than 1.
        """
        if turns < 1:
            raise ValueError(f"turns is {turns}, it must be at least 1")
        said = self._stopped_history()
        for _ in range(turns):
            place = _last_question(said)
            question, said = said[place], said[:place]
        self._said, self.reply = said, None
        return question

    def _stopped_history(self) -> list[Message]:
        """The history, after stopping a reply that is still being generated."""
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
        raise DataError("no question has been asked yet")
    return places[-1]

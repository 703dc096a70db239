"""Messages of a chat, and how they become a `Dialogue`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minigpt4.common.errors import DataError
from minigpt4.prompts.dialogue import Dialogue, Role, Turn
from minigpt4.prompts.templates import IMAGE_TURN, without_places
from minigpt4.prompts.video import video_turn
from minigpt4.serving.pictures import ImageLike, Picture
from minigpt4.serving.videos import SeenVideo, VideoFile

# The content of a message: text, or texts, images and videos in order.
Content = str | list[ImageLike | VideoFile | SeenVideo]


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        role: `system`, `user` or `assistant`.
        parts: texts, pictures and videos in order.
    """

    role: Role
    parts: tuple[str | Picture | SeenVideo, ...]

    @property
    def text(self) -> str:
        """Its texts, without images and videos."""
        return " ".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Picture]:
        """Its pictures and the frames of its videos, in order."""
        return [
            one for part in self.shown for one in (part.pictures if isinstance(part, SeenVideo) else [part])
        ]

    @property
    def shown(self) -> list[Picture | SeenVideo]:
        """Its pictures and videos, in order."""
        return [part for part in self.parts if not isinstance(part, str)]


def to_dialogue(messages: Iterable[Message], request: str) -> Dialogue:
    """Messages -> a dialogue.

    Args:
        messages: an optional system text, then user and assistant alternating.
        request: the question for images and videos without one.

    Raises:
        DataError: for an empty message, an image that is not the user's, or roles that do not alternate.
    """
    try:
        return Dialogue(tuple(_turn(message, request) for message in messages))
    except ValueError as error:
        raise DataError(str(error)) from error


def _turn(message: Message, request: str) -> Turn:
    if message.images and message.role != "user":
        raise DataError(f"only user messages may have images, not {message.role} messages")
    words = message.text if message.text.strip() or not message.images else request
    if not words.strip() and message.role != "assistant":
        raise DataError(f"the {message.role}'s message is empty")
    parts = message.parts if words == message.text else (*message.shown, words)
    return Turn(message.role, _written(parts))


def _written(parts: Sequence[str | Picture | SeenVideo]) -> str:
    """As in training: the image placeholder, a space, the text; or a video's frames, a line, the text."""
    text = ""
    for part in parts:
        text += " " if text and not text[-1].isspace() else ""
        if isinstance(part, SeenVideo):
            text += video_turn(part.said)
        else:
            text += IMAGE_TURN if isinstance(part, Picture) else without_places(part)
    return text

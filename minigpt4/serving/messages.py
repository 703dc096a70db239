"""What is said in a chat, and how it becomes the dialogue that a model is given."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from minigpt4.common.errors import DataError
from minigpt4.prompts.dialogue import Dialogue, Role, Turn
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, IMAGE_TURN, PromptTemplate
from minigpt4.serving.pictures import ImageLike, Picture

# What a user says: text, or texts and images in their order.
Content = str | list[ImageLike]


@dataclass(frozen=True)
class Message:
    """What one side says.

    Attributes:
        role: `system`, `user` or `assistant`.
        parts: texts and pictures in their order.
    """

    role: Role
    parts: tuple[str | Picture, ...]

    @property
    def text(self) -> str:
        """Its texts alone."""
        return " ".join(part for part in self.parts if isinstance(part, str))

    @property
    def images(self) -> list[Picture]:
        """Its pictures, in order."""
        return [part for part in self.parts if isinstance(part, Picture)]


def to_dialogue(messages: Iterable[Message], harmless: Callable[[str], str], request: str) -> Dialogue:
    """Messages as the model is given them.

    Args:
        messages: perhaps a system text, then user and assistant in turn.
        harmless: what makes text of text that the model would read as more.
        request: stands for the words where a user shows pictures alone.

    Raises:
        DataError: for a message without a word and without a picture, a picture that is not the user's, and
            roles
            that do not alternate.
    """
    try:
        return Dialogue(tuple(_turn(message, harmless, request) for message in messages))
    except ValueError as error:
        raise DataError(str(error)) from error


def _turn(message: Message, harmless: Callable[[str], str], request: str) -> Turn:
    if message.images and message.role != "user":
        raise DataError(f"only the user shows images, not the {message.role}")
    words = message.text if message.text.strip() or not message.images else request
    if not words.strip() and message.role != "assistant":
        raise DataError(f"the {message.role}'s message is empty")
    parts = message.parts if words == message.text else (*message.images, words)
    return Turn(message.role, _written(parts, harmless))


def _written(parts: Sequence[str | Picture], harmless: Callable[[str], str]) -> str:
    """As training writes it: a picture's mark, a space, the words."""
    text = ""
    for part in parts:
        text += " " if text and not text[-1].isspace() else ""
        text += IMAGE_TURN if isinstance(part, Picture) else harmless(part)
    return text


class Harmless:
    """Makes "< s>" of "<s>": readable, but neither a special token nor a place for an image.

    Known are the image's placeholder, the tokenizer's special tokens, and what the template is written with
    and the tokenizer reads as one (in some files `<start_of_turn>` is not declared special).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: PromptTemplate) -> None:
        added = tokenizer.added_tokens_decoder.values()
        marks = "\0".join(vars(template).values())
        known = {IMAGE_PLACEHOLDER, *tokenizer.all_special_tokens}
        known |= {token.content for token in added if token.special or token.content in marks}
        # A space after it would leave a token of one character (a line's end) what it is.
        words = sorted(re.escape(word) for word in known if len(word) > 1)
        self._first_character = re.compile(f"(?=(?:{'|'.join(words)}))(.)", re.DOTALL)

    def __call__(self, text: str) -> str:
        return self._first_character.sub(r"\1 ", text)

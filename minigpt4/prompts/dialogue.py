"""Dialogues about images: the one type that training, evaluation and chat use."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from minigpt4.common.errors import BadText
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, IMAGE_TURN

Role = Literal["system", "user", "assistant"]

# Far more than any context. A tokenizer takes a hundred times the memory of a text, and aborts the process if
# there is not enough.
MAX_CHARACTERS = 100_000
MAX_TURNS = 10_000


def check_text(text: str) -> None:
    """Raise BadText for text that cannot be tokenised."""
    if len(text) > MAX_CHARACTERS:
        raise BadText(f"text of more than {MAX_CHARACTERS:,} characters")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadText("text with half of a character (a lone surrogate)")


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue.

    Attributes:
        role: the speaker; the template marks each role.
        text: a user's has `<Img><ImageHere></Img>` where an image goes.
        verbatim: for a user's turn: `text` is a whole prompt, and the template adds no marks.

    Raises:
        BadText: if `text` is not valid text (`check_text`).
    """

    role: Role
    text: str
    verbatim: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise BadText(f"the {self.role}'s turn must be text, not {type(self.text).__name__}")
        check_text(self.text)

    @property
    def images(self) -> int:
        """How many images it has; only a user's turn has any."""
        return self.text.count(IMAGE_PLACEHOLDER) if self.role == "user" else 0


@dataclass(frozen=True)
class Dialogue:
    """Alternating turns of user and assistant, optionally after a system text.

    A dialogue that begins with the assistant is a caption: the model puts a request of `model.prompt_path`
        before it, or the bare image.

    Raises:
        BadText: for too many turns.
        ValueError: if the roles do not alternate, or there is no turn.
    """

    turns: tuple[Turn, ...]

    def __post_init__(self) -> None:
        if len(self.turns) > MAX_TURNS:
            raise BadText(f"a dialogue of more than {MAX_TURNS:,} turns")
        roles = [turn.role for turn in self.turns]
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        in_turn = "system" not in spoken and all(role != after for role, after in pairwise(spoken))
        known = {*roles} <= {"system", "user", "assistant"}
        if not spoken or not known or not in_turn or roles[:2] == ["system", "assistant"]:
            raise ValueError(f"user and assistant must alternate, found {', '.join(roles) or 'no turn'}")

    @classmethod
    def caption(cls, text: str) -> "Dialogue":
        """An image's caption, the answer to a request of the model's configuration."""
        return cls((Turn("assistant", text),))

    @classmethod
    def prompted(cls, prompt: str, answer: str) -> "Dialogue":
        """A whole prompt, marks and all, and its answer (the original's `instruction_input`)."""
        return cls((Turn("user", prompt, verbatim=True), Turn("assistant", answer)))

    @classmethod
    def of(cls, pairs: Iterable[tuple[str | None, str]]) -> "Dialogue":
        """Questions and their answers; a first question of None makes the first answer a caption."""
        turns = []
        for question, answer in pairs:
            turns += [] if question is None and not turns else [Turn("user", question or "")]
            turns.append(Turn("assistant", answer))
        return cls(tuple(turns))

    @classmethod
    def about_image(cls, question: str | None, answer: str) -> "Dialogue":
        """A question about one image, which goes before it, and the answer; without a question, a caption."""
        return cls.of([(None if question is None else IMAGE_TURN + question, answer)])

    @property
    def is_caption(self) -> bool:
        """Whether the model adds the request."""
        return self.turns[0].role == "assistant"

    @property
    def images(self) -> int:
        """How many images it has; the request of a caption has one."""
        return sum(turn.images for turn in self.turns) + self.is_caption

    @property
    def answer(self) -> str | None:
        """The text of the last turn, if it is the assistant's."""
        return self.turns[-1].text if self.turns[-1].role == "assistant" else None

    def unanswered(self) -> "Dialogue":
        """The dialogue without its last answer. Not for a caption without its request."""
        return Dialogue(self.turns[:-1]) if self.answer is not None else self

    def requested(self, request: Turn) -> "Dialogue":
        """A caption with `request` before it; any other dialogue unchanged."""
        return Dialogue((request, *self.turns)) if self.is_caption else self

    def in_template(self) -> "Dialogue":
        """Verbatim prompts as requests, which the template marks."""
        return Dialogue(tuple(replace(turn, verbatim=False) for turn in self.turns))

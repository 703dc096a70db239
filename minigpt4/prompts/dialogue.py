"""What is said about images, by whom: the one form in which training, evaluation and chat hold a dialogue."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from minigpt4.common.errors import BadText
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER

Role = Literal["system", "user", "assistant"]

# Far more than any model reads. A tokenizer takes a hundred times the memory of a text, and ends the process
# where there is not enough.
MAX_CHARACTERS = 100_000
MAX_TURNS = 10_000


def check_text(text: str) -> None:
    """Raise BadText for what no tokenizer can be given."""
    if len(text) > MAX_CHARACTERS:
        raise BadText(f"text of more than {MAX_CHARACTERS:,} characters")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadText("text with half of a character (a lone surrogate)")


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Attributes:
        role: who says it; a template knows how each role is marked.
        text: of a user, with `<Img><ImageHere></Img>` where an image goes.
        verbatim: of a user's turn: `text` is a whole prompt, and no marks are written around it.

    Raises:
        BadText: if `text` is not text that a tokenizer can read (`check_text`).
    """

    role: Role
    text: str
    verbatim: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise BadText(f"what the {self.role} says must be text, not {type(self.text).__name__}")
        check_text(self.text)

    @property
    def images(self) -> int:
        """How many images belong to it; only a user shows any."""
        return self.text.count(IMAGE_PLACEHOLDER) if self.role == "user" else 0


@dataclass(frozen=True)
class Dialogue:
    """Turns of user and assistant in alternation, perhaps after a system text.

    One that begins with the assistant is a caption: the model puts the request in front of it that it was
    configured with (`model.prompt_path`), or the bare image.

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
            raise ValueError(f"user and assistant must take turns, found {', '.join(roles) or 'no turn'}")

    @classmethod
    def caption(cls, text: str) -> "Dialogue":
        """An image's caption, which answers whatever request the model is configured with."""
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

    @property
    def is_caption(self) -> bool:
        """Whether the request is the model's to put."""
        return self.turns[0].role == "assistant"

    @property
    def images(self) -> int:
        """How many images belong to it; the request of a caption has one."""
        return sum(turn.images for turn in self.turns) + self.is_caption

    @property
    def answer(self) -> str | None:
        """The last turn, if it is the assistant's."""
        return self.turns[-1].text if self.turns[-1].role == "assistant" else None

    def unanswered(self) -> "Dialogue":
        """All before the last answer, for a model to reply to. Not for a caption without its request."""
        return Dialogue(self.turns[:-1]) if self.answer is not None else self

    def requested(self, request: Turn) -> "Dialogue":
        """A caption with `request` in front of it; any other dialogue as it is."""
        return Dialogue((request, *self.turns)) if self.is_caption else self

"""The original's conversations, whose roles and separators are texts of any spelling."""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from minigpt4.conversation import messages
from minigpt4.prompts.templates import GEMMA, VICUNA_V0, PromptTemplate


class SeparatorStyle(Enum):
    """Whether `sep` follows every message, or `sep` and `sep2` follow them in turn."""

    SINGLE = auto()
    TWO = auto()


class Conversation(messages.Conversation):
    """As the original's, and good for `Chat`.

    `Chat` gives the model who said what, and the system text, written as the model's own template writes
    turns: `roles` and separators are not part of it. `get_prompt` is the original's text, for code that
    passes it to the model itself.

    Args:
        system: what stands before the first turn.
        roles: what marks the user's and the assistant's messages. ": " follows a mark that ends with a
            letter, as in the original's first release.
        messages: [role, text] pairs.
        offset: how many messages `to_gradio_chatbot` leaves out.
        sep_style, sep, sep2: what follows the system text and the messages.
        skip_next, conv_id: kept for the caller.
    """

    def __init__(
        self,
        system: str,
        roles: Sequence[str],
        messages: Sequence[Sequence[Any]],
        offset: int,
        sep_style: SeparatorStyle = SeparatorStyle.SINGLE,
        sep: str = "###",
        sep2: str | None = None,
        skip_next: bool = False,
        conv_id: Any = None,
    ) -> None:
        user, assistant = roles
        super().__init__(PromptTemplate(user, assistant), [list(pair) for pair in messages], system)
        self.offset = offset
        self.sep_style = sep_style
        self.sep, self.sep2 = sep, sep2
        self.skip_next, self.conv_id = skip_next, conv_id

    def get_prompt(self) -> str:
        """The whole dialogue as the original writes it, up to where the next reply begins."""
        second = self.sep if self.sep_style == SeparatorStyle.SINGLE else self.sep2 or ""
        text = self.system + self.sep
        for place, (role, message) in enumerate(self.messages):
            mark = f"{role}: " if role[-1:].isalnum() else role
            if message:
                text += mark + message + (second if place % 2 else self.sep)
            else:
                text += f"{role}:" if mark != role else mark
        return text

    def to_gradio_chatbot(self) -> list[list[str | None]]:
        """[question, reply] pairs."""
        texts = [text for _, text in self.messages[self.offset :]]
        return [[*texts[place : place + 2], None][:2] for place in range(0, len(texts), 2)]

    def copy(self) -> "Conversation":
        style = (self.sep_style, self.sep, self.sep2)
        return Conversation(
            self.system, self.roles, self.messages, self.offset, *style, self.skip_next, self.conv_id
        )

    def dict(self) -> dict[str, Any]:
        """What describes it, for a log."""
        names = ("system", "roles", "messages", "offset", "sep", "sep2", "conv_id")
        return {name: getattr(self, name) for name in names}


CONV_VISION_Vicuna0 = Conversation(VICUNA_V0.system, ("Human: ", "Assistant: "), [], offset=2)
CONV_VISION_LLama2 = Conversation(VICUNA_V0.system, ("<s>[INST] ", " [/INST] "), [], offset=2, sep="")
CONV_VISION_minigptv2 = Conversation("", ("<s>[INST] ", " [/INST]"), [], offset=2, sep="")
# What the original's first release had; its language model was Vicuna.
CONV_VISION = CONV_VISION_Vicuna0
CONV_VISION_Gemma = Conversation(
    "",
    (GEMMA.user, GEMMA.assistant),
    [],
    offset=2,
    sep_style=SeparatorStyle.TWO,
    sep="",
    sep2=GEMMA.next_turn,
)

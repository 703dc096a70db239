"""A chat's messages as the original keeps them, which grow by appending."""

from dataclasses import dataclass, field
from typing import Any

from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.templates import PromptTemplate


@dataclass
class Conversation:
    """Messages in turn, written out by one template.

    Attributes:
        template: how turns are spelled; the model's own, so that chat asks as training did.
        messages: [role, text] pairs, users and assistants in turn; an assistant's text of None is the
            reply that is wanted.
        system: what stands before the first turn.
    """

    template: PromptTemplate
    messages: list[list[Any]] = field(default_factory=list)
    system: str = None  # type: ignore[assignment]  # the template's

    def __post_init__(self) -> None:
        if self.system is None:
            self.system = self.template.system

    @property
    def roles(self) -> tuple[str, str]:
        """How the user's and the assistant's messages are marked."""
        return self.template.user, self.template.assistant

    def append_message(self, role: str, message: str | None) -> None:
        self.messages.append([role, message])

    def get_prompt(self) -> str:
        """The whole dialogue as text, up to where the next reply begins. BOS is not written out."""
        text = self.system + (self.template.after_system if self.system else "")
        for place, (role, message) in enumerate(self.messages):
            if role == self.template.user and place:
                text += self.template.next_turn
            text += role + (message or "")
        return text

    def dialogue(self) -> Dialogue:
        """The messages that were said, as the model is given them."""
        roles = dict(zip(self.roles, ("user", "assistant"), strict=True))
        turns = [Turn(roles[role], text) for role, text in self.messages if text is not None]
        return Dialogue((*([Turn("system", self.system)] if self.system else []), *turns))

    def copy(self) -> "Conversation":
        return Conversation(self.template, [list(m) for m in self.messages], self.system)

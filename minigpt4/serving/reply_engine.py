"""What the server wants of whatever generates its replies."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from minigpt4.common.errors import UserError
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.replies import Reply


class Full(UserError):
    """So many wait already that another would wait in vain."""


@dataclass(eq=False)
class Asked:
    """A reply that is asked for.

    Attributes:
        reply: what has come of it; `reply.stop()` gives its place away.
        notify: called from the engine's thread whenever more has come of it, and when it has ended.
        error: what went wrong, or None.
    """

    prompt: Prompt
    settings: GenerationSettings
    notify: Callable[[], None]
    reply: Reply = field(init=False)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.reply = Reply(self.prompt, lambda reply: iter(()))


class ReplyEngine(Protocol):
    """Generates the replies that are asked for, many side by side, in threads of its own.

    Ours is `Batcher`; `VllmEngine` has vLLM do it.
    """

    @property
    def load(self) -> tuple[int, int]:
        """Replies that are being generated, and requests that wait."""
        ...

    def submit(self, request: Asked) -> None:
        """Ask for a reply. Raises Full."""
        ...

    def close(self) -> None:
        """End all replies where they are."""
        ...

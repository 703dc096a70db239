"""The interface between the server and what generates its replies."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from minigpt4.common.errors import UserError
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.replies import Reply


class Full(UserError):
    """The queue is full."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests are already waiting; please try again later")


@dataclass(eq=False)
class Asked:
    """A request for a reply.

    Attributes:
        reply: updated as it is generated; `reply.stop()` cancels the request.
        notify: called from the engine's thread after each update, and at the end.
        error: why it failed, or None.
    """

    prompt: Prompt
    settings: GenerationSettings
    notify: Callable[[], None]
    reply: Reply = field(init=False)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.reply = Reply(self.prompt, lambda reply: iter(()))


class ReplyEngine(Protocol):
    """Generates many replies concurrently, in its own threads: `Batcher`, or `VllmEngine`."""

    @property
    def load(self) -> tuple[int, int]:
        """Running and waiting requests."""
        ...

    def submit(self, request: Asked) -> None:
        """Queue a request. Raises Full."""
        ...

    def close(self) -> None:
        """Stop all replies."""
        ...

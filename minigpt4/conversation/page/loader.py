"""A model that is built while its page is already open."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minigpt4.serving import ChatModel


class Loader:
    """Builds the model and holds it.

    Args:
        checkpoint: `model.ckpt`; visitors are shown its file name.

    Attributes:
        model: None while it is being built.
        step: the current one: `weights` or `warm_up`.
    """

    def __init__(self, checkpoint: str | None = None) -> None:
        self.model: ChatModel | None = None
        self.step = "weights"
        self._checkpoint = checkpoint
        self._began = time.monotonic()

    def load(self, build: "Callable[[], ChatModel]") -> None:
        """Build the model and warm it up."""
        model = build()
        self.step = "warm_up"
        model.warm_up()
        self.model = model

    def progress(self, labels: dict[str, str]) -> str:
        """How far the model is loaded."""
        seconds = int(time.monotonic() - self._began)
        return labels["loading"].format(step=labels[self.step], seconds=seconds)

    def description(self, labels: dict[str, str], speed: float | None = None) -> str:
        """Model, language model, checkpoint, device and precision in one line.

        Args:
            labels: the visitor's.
            speed: of the last reply, in tokens per second.
        """
        assert self.model is not None
        model = self.model.model
        checkpoint = Path(self._checkpoint).name if self._checkpoint else labels["no_checkpoint"]
        precision = str(model.language.model.dtype).removeprefix("torch.")
        parts = [
            type(model).__name__,
            Path(model.language.name).name,
            checkpoint,
            str(model.device),
            precision,
        ]
        if speed is not None:
            parts.append(labels["tokens_per_second"].format(speed=round(speed)))
        return " · ".join(parts)

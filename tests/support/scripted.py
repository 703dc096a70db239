"""A model that says what it is told, and when: what a page shows of a reply can be looked at in peace."""

import threading
from collections.abc import Iterator

from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.processors.base_processor import ImageProcessor
from minigpt4.prompts.reply_end import ReplyReader
from minigpt4.serving import ChatModel
from minigpt4.serving.engine import Engine


class ScriptedReader(ReplyReader):
    """Reads the tokens of a text and the end, whatever was chosen."""

    def __init__(self, reader: ReplyReader, text: str) -> None:
        super().__init__(reader.tokenizer, reader.stop_ids, reader.end)
        self._script = reader.tokenizer(text, add_special_tokens=False).input_ids

    def add(self, token: int) -> None:
        place = len(self.ids)
        super().add(self._script[place] if place < len(self._script) else next(iter(self.stop_ids)))


class ScriptedEngine(Engine):
    """Attributes:
    script: the next replies; after them, the model's own.
    """

    def __init__(self, model: MiniGPTBase) -> None:
        super().__init__(model)
        self.script: list[str] = []
        self._gate: threading.Semaphore | None = None

    def hold(self) -> None:
        """Give no more tokens than `allow` says."""
        self._gate = threading.Semaphore(0)

    def allow(self, tokens: int) -> None:
        """Let this many more tokens pass."""
        assert self._gate is not None
        self._gate.release(tokens)

    def reset(self) -> None:
        """Forget the script, and let all tokens pass."""
        self.script.clear()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.release(10_000)

    def reader(self) -> ReplyReader:
        reader = super().reader()
        return ScriptedReader(reader, self.script.pop(0)) if self.script else reader

    def _step(self, steps: Iterator[None]) -> bool:
        if self._gate is not None:
            self._gate.acquire()
        return super()._step(steps)

    def _in_one_piece(self, reply, settings) -> Iterator[str]:
        if self._gate is not None:
            self._gate.acquire()
        return super()._in_one_piece(reply, settings)


class ScriptedModel(ChatModel):
    """A model whose engine is scripted."""

    engine: ScriptedEngine

    def __init__(self, model: MiniGPTBase, processor: ImageProcessor) -> None:
        super().__init__(model, processor)
        self.engine = ScriptedEngine(model)

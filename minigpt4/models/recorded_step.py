"""The step of growing key-value caches as a CUDA graph, without compiling anything.

One set of static buffers is lent to one cache at a time: its tokens are copied in before the first step, and
those of the reply are copied back at the end. So all dialogues stay cached, whichever of them is being
continued.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from minigpt4.models.fixed_key_values import FixedKeyValues
from minigpt4.models.key_values import KeyValues, keeps_tokens
from minigpt4.models.language_model import LanguageModel

log = logging.getLogger(__name__)

# Capacities are multiples of this, so that a dialogue is recorded anew at a few of its turns only.
CAPACITY_STEP = 1024


def fits_static_buffers(language: LanguageModel) -> bool:
    """Whether the steps of a model can run in static buffers."""
    config = language.config
    # Flash attention would read the empty rest of the buffers, too.
    return (
        keeps_tokens(language)
        and bool(getattr(language.model, "_can_compile_fullgraph", False))
        and config._attn_implementation in ("sdpa", "eager")
    )


def can_record(language: LanguageModel) -> bool:
    """Whether to try: all weights on one CUDA device and none of them packed, and nothing to be compiled."""
    weights = list(language.model.parameters())
    return (
        {weight.device for weight in weights} == {language.device}
        and language.device.type == "cuda"
        and all(weight.is_floating_point() for weight in weights)
        and not (language.compiled or language.sharded)
        and fits_static_buffers(language)
    )


class RecordedStep:
    """Static buffers for one row, and the graph of a step on them, which is recorded when it is needed."""

    def __init__(self, language: LanguageModel) -> None:
        self.language = language
        self._usable: bool | None = None
        self._free = threading.Lock()
        self._fixed: FixedKeyValues | None = None

    @contextmanager
    def lent_to(self, keys: KeyValues, tokens: int) -> Iterator[KeyValues]:
        """The cache to take the steps of a reply with.

        Args:
            keys: of one row; afterwards, they hold the tokens of the steps, too.
            tokens: how many steps there are at most.

        Yields:
            `keys` themselves where steps cannot be recorded, or another reply has the buffers.
        """
        if not self._free.acquire(blocking=False):
            yield keys
            return
        try:
            lent = self.load(keys, tokens)
            try:
                yield lent
            finally:
                if lent is not keys:
                    keys.extend(lent)
        finally:
            self._free.release()

    def load(self, keys: KeyValues, tokens: int) -> KeyValues:
        """The static buffers with the tokens of `keys`, or `keys` where steps cannot be recorded."""
        if self._usable is None:
            self._usable = can_record(self.language)
        if not self._usable or keys is self._fixed:
            return keys
        needed = keys.length + tokens
        try:
            if self._fixed is None or self._fixed.capacity < needed:
                self._fixed = None  # frees its memory first
                self._fixed = FixedKeyValues(self.language, 1, -(-needed // CAPACITY_STEP) * CAPACITY_STEP)
            self._fixed.load(keys)
            self._fixed.record()
        except RuntimeError as error:  # control flow that depends on the data, or no memory left
            log.warning("replies are generated without a CUDA graph, since none could be recorded: %s", error)
            self._usable, self._fixed = False, None
            return keys
        return self._fixed

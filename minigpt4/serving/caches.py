"""The key-value caches of the dialogues that went on last."""

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from minigpt4.models.key_values import KeyValues
from minigpt4.models.language_model import LanguageModel

Tokens = Sequence[Hashable]


@dataclass
class Cache:
    """What was read, and its keys and values."""

    tokens: list[Hashable]
    keys: KeyValues


class PromptCaches:
    """Finds what of a prompt was read before.

    A cache belongs to one reply at a time. Where something fails, it is thrown away.

    Args:
        language: whose keys and values they are.
        count: how many are kept at most; those not used for longest go first.
        tokens: how many tokens they may hold together.
        fixed: where the decode step is compiled, the only one that is kept: another dialogue writes over it.
            A
            reply beside the one that has it is generated uncompiled.
    """

    def __init__(
        self, language: LanguageModel, count: int, tokens: int, fixed: KeyValues | None = None
    ) -> None:
        self.language, self.count, self.tokens = language, count, tokens
        self._fixed = fixed
        self._kept = [] if fixed is None else [Cache([], fixed)]  # the one used last is the last
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, tokens: Tokens) -> Iterator[Cache]:
        """The cache with the longest beginning in common with a prompt, cropped to that; else an empty one.

        At least the prompt's last token is left to read, because its logits are wanted. What has less than
        half in common, of the cache and of the prompt, is another dialogue, which merely begins alike.

        Whoever borrows it adds to `tokens` what is read, and may be a generator that is closed in between.
        """
        cache = self._take(tokens)
        try:
            yield cache
        except GeneratorExit:
            self._put(cache)
            raise
        except BaseException:
            if cache.keys is self._fixed:
                cache.tokens.clear()
                self._put(cache)
            raise
        self._put(cache)

    def _take(self, tokens: Tokens) -> Cache:
        with self._lock:
            common = [min(common_length(cache.tokens, tokens), len(tokens) - 1) for cache in self._kept]
            best = max(range(len(common)), key=common.__getitem__, default=None)
            if best is None:
                return Cache([], KeyValues(self.language))
            reused, held = common[best], len(self._kept[best].tokens)
            if 2 * reused < min(held, len(tokens)):
                if self._fixed is None:
                    return Cache([], KeyValues(self.language))
                reused = 0
            found = self._kept.pop(best)
        found.keys.crop(reused)
        del found.tokens[reused:]
        return found

    def _put(self, cache: Cache) -> None:
        del cache.tokens[cache.keys.length :]
        with self._lock:
            if self._fixed is not None:
                self._kept = [cache] if cache.keys is self._fixed else self._kept
                return
            self._kept.append(cache)
            while len(self._kept) > self.count or self._held() > self.tokens:
                self._kept.pop(0)

    def _held(self) -> int:
        return sum(len(cache.tokens) for cache in self._kept)


def common_length(first: Tokens, second: Tokens) -> int:
    """How many tokens two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))

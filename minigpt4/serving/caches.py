"""The key-value caches of the most recent dialogues."""

import threading
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from minigpt4.models.key_values import KeyValues
from minigpt4.models.language_model import LanguageModel

Tokens = Sequence[Hashable]


@dataclass
class Cache:
    """Tokens, and their keys and values."""

    tokens: list[Hashable]
    keys: KeyValues


class PromptCaches:
    """Finds the cached prefix of a prompt.

    A cache belongs to one reply at a time. If generation fails, it is discarded.

    Args:
        language: the language model.
        count: the maximum number of caches; the least recently used are dropped first.
        tokens: the maximum number of tokens in all of them.
        fixed: the only cache if the decode step is compiled: another dialogue overwrites it, and a concurrent
            reply runs uncompiled.
    """

    def __init__(
        self, language: LanguageModel, count: int, tokens: int, fixed: KeyValues | None = None
    ) -> None:
        self.language, self.count, self.tokens = language, count, tokens
        self._fixed = fixed
        self._kept = [] if fixed is None else [Cache([], fixed)]  # most recently used last
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, tokens: Tokens) -> Iterator[Cache]:
        """The cache with the longest common prefix with a prompt, cropped to it; otherwise an empty one.

        The prompt's last token is always left to compute, because its logits are needed. A cache that shares
        less than half of the shorter of both is another dialogue with the same beginning.

        The caller appends the tokens it computes to `tokens`. It may be a generator that is closed early.
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
    """The length of the common prefix."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))

"""Instructions: the wordings in which a task is put to a model, of which each sample draws one.

A pool is a text file with one wording per line. `{}` stands where the text of the sample goes: its question,
its phrase, its box. Empty lines do not count. The pools in `instructions/` begin with the task identifiers
that MiniGPT-v2 was trained with: `[caption]`, `[vqa]`, `[refer]`, `[identify]`, `[grounding]`, `[detection]`.
"""

import random
from collections.abc import Iterable
from pathlib import Path

from minigpt4.common.errors import ConfigError, reading
from minigpt4.prompts.dialogue import check_text
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER
from minigpt4.weights.paths import existing_file

POOLS = Path(__file__).with_name("instructions")
SLOT = "{}"


class Instructions:
    """A pool of wordings, some around a text of the sample and some that stand alone.

    Args:
        lines: the wordings.

    Raises:
        ValueError: for one that holds `{}` twice, a place for an image, or what cannot be tokenised.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = [line.strip() for line in lines if line.strip()]
        for line in self.lines:
            if line.count(SLOT) > 1 or IMAGE_PLACEHOLDER in line:
                raise ValueError(
                    f"{line!r} must hold {SLOT} at most once and no {IMAGE_PLACEHOLDER}: the image goes first"
                )
            check_text(line)
        self.around = [line for line in self.lines if SLOT in line]
        self.alone = [line for line in self.lines if SLOT not in line]

    @classmethod
    def pool(cls, name: str) -> "Instructions":
        """One that comes with the package, e.g. `refer`."""
        return cls((POOLS / f"{name}.txt").read_text(encoding="utf-8").splitlines())

    @classmethod
    def read(cls, path: str, key: str, like: "Instructions | None" = None) -> "Instructions":
        """Those of a user's file.

        Args:
            path: a path, or `pkg://module/file` inside an installed package.
            key: the YAML key, for messages.
            like: a pool for the same task; None where wordings with and without `{}` are both of use.

        Raises:
            ConfigError: if the file does not exist, holds no wording, or one that cannot be used.
        """
        file = existing_file(path, key)
        with reading(file, ConfigError, failed=f"{key}: {{}} could not be read"):
            lines = file.read_text(encoding="utf-8").splitlines()
        try:
            pool = cls(lines)
        except ValueError as error:
            raise ConfigError(f"{key}: {path}: {error}") from error
        if not pool.lines:
            raise ConfigError(f"{key}: {path} has no instruction: please write one per line")
        odd = [] if like is None else pool.alone if like.around else pool.around
        if like and odd:
            must = f"hold {SLOT}, where the sample's text goes" if like.around else f"not hold {SLOT}"
            raise ConfigError(f"{key}: {path}: {odd[0]!r} must {must}, e.g. {like.lines[-1]!r}")
        return pool

    def ask(self, rng: random.Random) -> str | None:
        """A wording that stands alone; None if there is none."""
        return rng.choice(self.alone) if self.alone else None

    def about(self, text: str, rng: random.Random) -> str:
        """A wording around a text; the text itself if there is none."""
        return rng.choice(self.around).replace(SLOT, text) if self.around else text

"""How replies are generated: the settings, checked in one place. Nothing heavy is imported for them."""

from dataclasses import dataclass
from typing import ClassVar

from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import key, read


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How one reply is generated. `dataclasses.replace` changes some of it, and checks again.

    With `num_beams` above 1 the likeliest reply is searched for: nothing is drawn, and the reply comes in one
    piece.

    Raises:
        ConfigError: naming the setting, what it is and what it may be.
    """

    temperature: float = key(1.0, "0 always takes the likeliest token", low=0, high=100)
    top_p: float = key(
        0.9, "draw from the likeliest tokens that have this probability together", low=0, high=1
    )
    top_k: int = key(0, "draw from so many of the likeliest tokens; 0: from all", low=0)
    repetition_penalty: float = key(
        1.05, "above 1, tokens that the reply has already are less likely", low=0.01
    )
    length_penalty: float = key(1.0, "of beams: above 0, long replies are preferred")
    min_new_tokens: int = key(1, "shortest reply in tokens, its end not counted", low=0)
    max_new_tokens: int = key(512, "longest reply in tokens", low=1)
    num_beams: int = key(1, "replies that are followed side by side", low=1, high=64)
    seed: int | None = key(None, "the same reply each time; null: another each time", low=0, high=2**63 - 1)

    # Below this temperature sampling is greedy up to rounding; at 0 it would divide by zero.
    GREEDY_BELOW: ClassVar[float] = 0.05

    def __post_init__(self) -> None:
        read(type(self), vars(self), "settings")
        if self.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"settings.min_new_tokens is {self.min_new_tokens}, "
                f"it must be at most max_new_tokens, which is {self.max_new_tokens}"
            )

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn, and not the likeliest ones taken."""
        return self.temperature >= self.GREEDY_BELOW and self.num_beams == 1

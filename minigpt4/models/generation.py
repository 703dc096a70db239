"""The settings of generation, checked in one place, without heavy imports."""

from dataclasses import dataclass
from typing import ClassVar

from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import key, read


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How one reply is generated. `dataclasses.replace` checks again.

    With `num_beams` above 1, beam search is used: nothing is sampled, and the reply is not streamed.

    Raises:
        ConfigError: naming the setting, its value and what is allowed.
    """

    temperature: float = key(1.0, "0 is greedy decoding", low=0, high=100)
    top_p: float = key(
        0.9, "sample from the most probable tokens whose probabilities add up to this", low=0, high=1
    )
    top_k: int = key(0, "sample from the k most probable tokens; 0: off", low=0)
    repetition_penalty: float = key(1.05, "above 1, tokens already in the reply become less likely", low=0.01)
    length_penalty: float = key(1.0, "for beam search: above 0, long replies are preferred")
    min_new_tokens: int = key(1, "minimum length in tokens, without the end", low=0)
    max_new_tokens: int = key(512, "maximum length in tokens", low=1)
    num_beams: int = key(1, "number of beams; 1: no beam search", low=1, high=64)
    seed: int | None = key(None, "makes sampling reproducible; null: random", low=0, high=2**63 - 1)

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
        """Whether tokens are sampled, not chosen greedily."""
        return self.temperature >= self.GREEDY_BELOW and self.num_beams == 1

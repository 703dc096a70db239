"""How far a run has come, in numbers; a checkpoint holds them as a dict."""

from dataclasses import asdict, dataclass, field, fields
from types import NoneType
from typing import Any

from minigpt4.runners.engine import UpdateResult


@dataclass
class Window:
    """What was done since the last line of the log, over all ranks.

    Attributes:
        loss: sum over all targets, in nats.
        targets, tokens, images: how many; see `MicroBatches`.
        seconds: that it took.
    """

    loss: float = 0.0
    targets: int = 0
    tokens: int = 0
    images: int = 0
    seconds: float = 0.0

    def rates(self) -> dict[str, float]:
        """`images_per_second` and `tokens_per_second`."""
        seconds = max(self.seconds, 1e-9)
        return {
            "images_per_second": round(self.images / seconds, 1),
            "tokens_per_second": round(self.tokens / seconds),
        }


@dataclass
class RunState:
    """Everything that is counted.

    Attributes:
        step: steps done.
        images: samples trained on.
        seconds: of training, without validation and saving.
        skipped: updates that were skipped because loss or gradient was not finite.
        skipped_in_a_row: of those, the last ones with no other update in between.
        best_metric, best_value, best_step: which metric decides, what it was in the best validation so far,
            and after which step that was taken.
        owes_validation: one was due, and a request to stop came first.
        before: metrics of the evaluation before training.
        window: since the last line of the log.
    """

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_metric: str = ""
    best_value: float | None = None
    best_step: int = 0
    owes_validation: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    window: Window = field(default_factory=Window)

    def count(self, result: UpdateResult, seconds: float) -> None:
        """Add an update and the time since the one before."""
        self.images += result.images
        self.seconds += seconds
        self.window.seconds += seconds
        self.window.images += result.images
        self.window.tokens += result.tokens
        if result.finite:
            self.window.loss += result.loss
            self.window.targets += result.targets
            self.skipped_in_a_row = 0
        else:
            self.skipped += 1
            self.skipped_in_a_row += 1

    def best_of(self, metric: str) -> float | None:
        """The best value so far, if it is one of this metric."""
        return self.best_value if metric == self.best_metric else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunState":
        """What `to_dict` gave; what an older version did not count starts at zero.

        Raises:
            ValueError: for a value of another type, which a damaged file has.
        """
        if "best_loss" in values:  # as it was called while no other metric could decide
            values = values | {"best_metric": "loss", "best_value": values["best_loss"]}
        window = Window(**_known(Window(), values.get("window", {})))
        return cls(**_known(cls(), values | {"window": window}))


def _known(defaults: RunState | Window, values: dict[str, Any]) -> dict[str, Any]:
    """The values that have a field. Raises ValueError for one of another type than the field's default."""
    known = {one.name: values[one.name] for one in fields(defaults) if one.name in values}
    for name, value in known.items():
        default = getattr(defaults, name)
        number = isinstance(value, int | float) and type(default) in (int, float, NoneType)
        if not (number or type(value) is type(default)) or (type(default) is int and value < 0):
            raise ValueError(f"{name} is {value!r}")
    return known

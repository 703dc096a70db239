"""Learning-rate schedules, called as in LAVIS: `schedule.step(cur_epoch, cur_step)` before each step."""

import inspect
import math
from typing import Protocol

from torch.optim import Optimizer

from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from minigpt4.runners.settings import RunSettings


class Schedule(Protocol):
    """What `run.lr_sched` names: a class, made of the optimizer and of those settings that it asks for."""

    def step(self, cur_epoch: int, cur_step: int) -> float:
        """Set the rate of step `cur_step` (within epoch `cur_epoch`) in the optimizer, and return it."""
        ...


def make_schedule(settings: RunSettings, optimizer: Optimizer) -> Schedule:
    """The schedule that `run.lr_sched` names.

    Its class is given each of the run's settings that its constructor has a parameter for. LAVIS has other
    names for two: `warmup_start_lr` is `run.warmup_lr`, and `decay_rate` is `run.lr_decay_rate`.

    Raises:
        ConfigError: if it wants a parameter that is not among them.
    """
    schedule_class = registry.get_lr_scheduler_class(settings.lr_sched)
    values = vars(settings) | {"warmup_start_lr": settings.warmup_lr, "decay_rate": settings.lr_decay_rate}
    _, *parameters = inspect.signature(schedule_class).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for parameter in named:
        if parameter.default is parameter.empty and parameter.name not in values:
            raise ConfigError(
                f"run.lr_sched: {settings.lr_sched} wants {parameter.name!r}, which is not a key of run:"
            )
    return schedule_class(optimizer, **{p.name: values[p.name] for p in named if p.name in values})


class _WarmupSchedule:
    """A linear warm-up counted in steps from the start of training, then `_after_warmup`."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_epoch: int,
        iters_per_epoch: int,
        min_lr: float,
        init_lr: float,
        warmup_steps: int = 0,
        warmup_start_lr: float = -1,
    ) -> None:
        self.optimizer = optimizer
        self.max_epoch = max_epoch
        self.iters_per_epoch = iters_per_epoch
        self.min_lr = min_lr
        self.init_lr = init_lr
        self.warmup_steps = warmup_steps
        self.warmup_start_lr = warmup_start_lr if warmup_start_lr >= 0 else init_lr

    def step(self, cur_epoch: int, cur_step: int) -> float:
        """Set the rate of step `cur_step` (within epoch `cur_epoch`) and return it."""
        total_step = cur_epoch * self.iters_per_epoch + cur_step
        if total_step < self.warmup_steps:
            share = total_step / max(self.warmup_steps, 1)
            rate = self.warmup_start_lr + (self.init_lr - self.warmup_start_lr) * share
        else:
            rate = self._after_warmup(cur_epoch, total_step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _after_warmup(self, cur_epoch: int, total_step: int) -> float:
        raise NotImplementedError


@registry.register_lr_scheduler("linear_warmup_cosine_lr")
class LinearWarmupCosineLRScheduler(_WarmupSchedule):
    """After the warm-up, half a cosine over the whole run (not only over what the warm-up left)."""

    def _after_warmup(self, cur_epoch: int, total_step: int) -> float:
        share = total_step / (self.max_epoch * self.iters_per_epoch)
        return self.min_lr + (self.init_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


@registry.register_lr_scheduler("linear_warmup_step_lr")
class LinearWarmupStepLRScheduler(_WarmupSchedule):
    """After the warm-up, the rate is multiplied by `decay_rate` at the start of each epoch."""

    def __init__(
        self,
        optimizer: Optimizer,
        max_epoch: int,
        iters_per_epoch: int,
        min_lr: float,
        init_lr: float,
        decay_rate: float = 1,
        warmup_steps: int = 0,
        warmup_start_lr: float = -1,
    ) -> None:
        super().__init__(
            optimizer, max_epoch, iters_per_epoch, min_lr, init_lr, warmup_steps, warmup_start_lr
        )
        self.decay_rate = decay_rate

    def _after_warmup(self, cur_epoch: int, total_step: int) -> float:
        return max(self.min_lr, self.init_lr * self.decay_rate**cur_epoch)

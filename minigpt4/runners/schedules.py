"""Learning-rate schedules, called as in LAVIS: `scheduler.step(cur_epoch, cur_step)` before each step."""

import math

from torch.optim import Optimizer

from minigpt4.common.registry import registry


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

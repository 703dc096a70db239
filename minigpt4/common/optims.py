"""Where the original has its schedules; the package itself takes them from `minigpt4.runners.schedules`."""

from minigpt4.runners.schedules import LinearWarmupCosineLRScheduler, LinearWarmupStepLRScheduler

__all__ = ["LinearWarmupCosineLRScheduler", "LinearWarmupStepLRScheduler"]

"""Runners own the loop; schedules say how its learning rate moves."""

from minigpt4.common.registry import lazily, registry
from minigpt4.runners.settings import RunSettings

RUNNERS = {"runner_base": "minigpt4.runners.runner_base:RunnerBase"}
SCHEDULES = {
    "linear_warmup_cosine_lr": "minigpt4.runners.schedules:LinearWarmupCosineLRScheduler",
    "linear_warmup_step_lr": "minigpt4.runners.schedules:LinearWarmupStepLRScheduler",
}

registry.declare("runner", RUNNERS, {"runner_base": RunSettings})
registry.declare("lr_scheduler", SCHEDULES)

__getattr__ = lazily(*RUNNERS.values())

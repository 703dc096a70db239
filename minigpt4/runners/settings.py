"""The keys of `run:`, with their meaning and their checks."""

import logging
from dataclasses import dataclass, field, fields
from typing import get_args, get_type_hints

from minigpt4.common.errors import ConfigError
from minigpt4.runners.reporting.tracking import check_trackers

log = logging.getLogger(__name__)

# The smallest value of each key that is a number. Where 0 is allowed beside 1 it switches something off.
SMALLEST = {
    **dict.fromkeys(("max_epoch", "iters_per_epoch", "accum_grad_iters", "log_freq", "batch_size_eval"), 1),
    **dict.fromkeys(("keep", "max_bad_steps", "world_size"), 1),
    **dict.fromkeys(("init_lr", "min_lr", "weight_decay", "grad_clip", "warmup_steps", "num_workers"), 0),
    **dict.fromkeys(("save_every", "save_minutes", "valid_every", "seed", "max_bad_fraction", "beta2"), 0),
}
# These do not decide what a run comes to.
WITHOUT_EFFECT = (
    *("output_dir", "resume_ckpt_path", "evaluate", "device", "num_workers", "log_freq", "keep"),
    *(
        "save_every",
        "save_minutes",
        "tracker",
        "wandb_log",
        "job_name",
        "distributed",
        "world_size",
        "dist_url",
    ),
    *("dist_backend", "batch_size_eval", "valid_splits", "valid_every", "test_splits"),
)


@dataclass
class RunSettings:
    """One field a key. A step is one batch on each device, as in the original.

    Attributes:
        task, runner, lr_sched: names in the registry.
        max_epoch: epochs.
        iters_per_epoch: steps an epoch; the data is a stream, so an epoch is what this says.
        init_lr, min_lr, warmup_lr, warmup_steps, lr_decay_rate: the schedule; rates are per step.
        weight_decay, beta2: AdamW's; biases and norms are not decayed.
        grad_clip: largest norm of the gradient; 0 switches clipping off.
        accum_grad_iters: steps whose gradients make one update of the weights. The last update of an epoch
            takes what is left.
        amp: trained parts compute in bf16 (float16 on older GPUs) where the device is fast at it.
        seed: decides everything that is random.
        output_dir: where everything is written.
        num_workers: processes that read data, each dataset.
        log_freq: steps between log lines.
        max_bad_fraction: largest part of the samples read that may be bad.
        max_bad_steps: so many updates in a row without a finite loss and gradient stop the run. Float16's
            scaler may need 16 to find its scale.
        train_splits: names of splits to train on.
        valid_splits: their loss is taken every `valid_every` steps (0: at each epoch's end), and decides
            which checkpoint is the best.
        test_splits: are captioned before and after training.
        save_every, save_minutes: steps and minutes between checkpoints, beside those at each epoch's end; 0
            for none.
        keep: so many checkpoints of epochs' ends, and so many of those between, are kept; the best and the
            latest always are.
        resume_ckpt_path: a checkpoint whose training goes on, or `auto`: the newest in `output_dir`, if
            there is one.
        evaluate: True only evaluates.
        device: cuda, mps or cpu; None takes the best there is.
        tracker: of tensorboard, wandb and trackio, those that are told what the log is told.
        wandb_log: True is the original's way to say `tracker: [wandb]`; without that package it is ignored.
        job_name: the run's name there.
        distributed, world_size, dist_url, dist_backend: accepted from the original's YAMLs. The launcher
            (torchrun, accelerate launch) decides, and a run says so where that is not what they ask for.
        batch_size_eval: batch size of validation and evaluation.
    """

    task: str
    max_epoch: int
    iters_per_epoch: int
    init_lr: float
    output_dir: str
    runner: str = "runner_base"
    lr_sched: str = "linear_warmup_cosine_lr"
    min_lr: float = 0.0
    warmup_lr: float = -1.0
    warmup_steps: int = 0
    lr_decay_rate: float = 1.0
    weight_decay: float = 0.05
    beta2: float = 0.999
    grad_clip: float = 1.0
    accum_grad_iters: int = 1
    amp: bool = True
    seed: int = 42
    num_workers: int = 4
    log_freq: int = 50
    max_bad_fraction: float = 0.5
    max_bad_steps: int = 20
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    valid_splits: list[str] = field(default_factory=list)
    valid_every: int = 0
    test_splits: list[str] = field(default_factory=list)
    save_every: int = 0
    save_minutes: float = 30
    keep: int = 5
    resume_ckpt_path: str | None = None
    evaluate: bool = False
    device: str | None = None
    tracker: list[str] = field(default_factory=list)
    wandb_log: bool = False
    job_name: str = ""
    distributed: bool = False
    world_size: int = 1
    dist_url: str = "env://"
    dist_backend: str | None = None
    batch_size_eval: int = 32

    def __post_init__(self) -> None:
        types = get_type_hints(RunSettings)
        for one in fields(self):
            self._check_type(one.name, types[one.name])
        for key, least in SMALLEST.items():
            if getattr(self, key) < least:
                raise ConfigError(f"run.{key} is {getattr(self, key)}, it must be at least {least}")
        if self.max_bad_fraction > 1:
            raise ConfigError(f"run.max_bad_fraction is {self.max_bad_fraction}, it must be from 0 to 1")
        check_trackers(self.tracker)
        if self.dist_url != "env://":
            raise ConfigError(
                f"run.dist_url is {self.dist_url!r}: ranks find each other as the launcher says (torchrun "
                "--rdzv-endpoint HOST:PORT), so only env:// is accepted"
            )

    def _check_type(self, key: str, wanted: type) -> None:
        value = getattr(self, key)
        if wanted == list[str]:
            right = isinstance(value, list) and all(isinstance(one, str) for one in value)
            name = "a list of names"
        elif wanted is float:
            right, name = isinstance(value, int | float) and not isinstance(value, bool), "a number"
        elif wanted is int:
            right, name = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        else:
            kinds = get_args(wanted) or (wanted,)
            right = isinstance(value, kinds)
            name = {bool: "True or False"}.get(wanted, "a text")
        if not right:
            hint = " (YAML wants 1.0e-4, not 1e-4)" if wanted is float and isinstance(value, str) else ""
            raise ConfigError(f"run.{key} is {value!r}, it must be {name}{hint}")

    def epoch_of(self, step: int) -> int:
        """The number of the epoch that a step belongs to; steps begin with 1, epochs with 0."""
        return (step - 1) // self.iters_per_epoch

    def trackers(self) -> list[str]:
        """Whom to tell: those of `tracker`, and wandb for `wandb_log`."""
        if not self.wandb_log or "wandb" in self.tracker:
            return self.tracker
        try:
            check_trackers(["wandb"])
        except ConfigError as error:
            log.warning("run.wandb_log has no effect: %s", error)  # the original's YAMLs all have it
            return self.tracker
        return [*self.tracker, "wandb"]

    def warn_about_launch(self, processes: int) -> None:
        """Say what `distributed` and `world_size` asked for, where the launcher did otherwise."""
        if self.world_size not in (1, processes):
            log.warning(
                "run.world_size is %d, but %d process%s started: torchrun --nproc-per-node %d train.py ...",
                self.world_size,
                processes,
                " was" if processes == 1 else "es were",
                self.world_size,
            )

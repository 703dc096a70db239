"""The keys of `run:`, with their meaning and their checks."""

from dataclasses import dataclass, field

from minigpt4.common.errors import ConfigError


@dataclass
class RunSettings:
    """One field a key.

    Attributes:
        task, runner, lr_sched: names in the registry.
        max_epoch: epochs.
        iters_per_epoch: batches an epoch; the data is a stream, so an epoch is what this says.
        init_lr, min_lr, warmup_lr, warmup_steps, lr_decay_rate: the schedule; rates are per step.
        weight_decay, beta2: AdamW's; biases and norms are not decayed.
        grad_clip: largest norm of the gradient; 0 switches clipping off.
        accum_grad_iters: batches whose gradients are averaged for one step of the optimizer.
        amp: trained parts compute in bf16 (float16 on older GPUs) where the device is fast at it.
        seed: decides everything that is random.
        output_dir: where everything is written.
        num_workers: processes that read data, each dataset.
        log_freq: steps between log lines.
        max_bad_fraction: largest part of the samples read that may be bad.
        train_splits, test_splits: names of splits; `test_splits` are captioned before and after training.
        resume_ckpt_path: a checkpoint whose training is continued with its next epoch.
        evaluate: True only evaluates.
        device: cuda, mps or cpu; None takes the best there is.
        distributed, world_size, dist_url, dist_backend: accepted from the original's YAMLs; the launcher
            (torchrun, accelerate launch) decides.
        wandb_log, job_name: as in the original; there are no trackers yet, and a run says so.
        batch_size_eval: batch size of the evaluation.
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
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    test_splits: list[str] = field(default_factory=list)
    resume_ckpt_path: str | None = None
    evaluate: bool = False
    device: str | None = None
    distributed: bool = False
    world_size: int = 1
    dist_url: str = "env://"
    dist_backend: str = "nccl"
    wandb_log: bool = False
    job_name: str = ""
    batch_size_eval: int = 32

    def __post_init__(self) -> None:
        for key in ("max_epoch", "iters_per_epoch", "accum_grad_iters", "log_freq", "batch_size_eval"):
            if not isinstance(getattr(self, key), int) or getattr(self, key) < 1:
                raise ConfigError(f"run.{key} is {getattr(self, key)!r}, it must be a whole number from 1")
        for key in ("init_lr", "min_lr", "warmup_lr", "weight_decay", "grad_clip"):
            if isinstance(getattr(self, key), str):
                raise ConfigError(
                    f"run.{key} is the text {getattr(self, key)!r}, not a number "
                    "(YAML wants 1.0e-4, not 1e-4)"
                )
        if not 0 <= self.max_bad_fraction <= 1:
            raise ConfigError(f"run.max_bad_fraction is {self.max_bad_fraction}, it must be from 0 to 1")

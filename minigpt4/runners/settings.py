"""The section `run:` of a YAML: one field per key. Imports neither torch nor transformers."""

import logging
from dataclasses import dataclass

from minigpt4.common.config import DEFAULT_RUNNER
from minigpt4.common.errors import ConfigError
from minigpt4.common.schema import key
from minigpt4.runners.reporting.tracking import TRACKERS, check_trackers

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class RunSettings:
    """The keys of `run:`. A step is one batch on each device, as in the original."""

    task: str = key(doc="what one training step and one evaluation mean", names="task")
    runner: str = key(DEFAULT_RUNNER, "what owns the training loop", names="runner")

    lr_sched: str = key(
        "linear_warmup_cosine_lr",
        "how the learning rate moves",
        names="lr_scheduler",
    )
    init_lr: float = key(doc="learning rate after warm-up", low=0)
    min_lr: float = key(0.0, "the lowest learning rate, reached at the end", low=0)
    warmup_lr: float = key(-1.0, "learning rate at the start of warm-up; below 0: `init_lr`")
    warmup_steps: int = key(0, "length of warm-up in steps", low=0)
    lr_decay_rate: float = key(1.0, "factor per epoch, with `linear_warmup_step_lr`")
    weight_decay: float = key(0.05, "AdamW's; biases and norms are not decayed", low=0)
    beta2: float = key(0.999, "AdamW's", low=0, high=0.999999)
    grad_clip: float = key(1.0, "largest norm of the gradient; 0: no clipping", low=0)
    accum_grad_iters: int = key(
        1,
        "steps whose gradients make one update: the mean over all their target tokens, on all devices; the "
        "last update of an epoch takes what is left",
        low=1,
    )
    amp: bool = key(
        True, "trained parts compute in bf16 (float16 on older GPUs) where the device is fast at it"
    )

    max_epoch: int = key(doc="number of epochs", low=1)
    iters_per_epoch: int = key(
        doc="steps per epoch: the data is a stream, so this is what an epoch is", low=1
    )
    train_splits: list[str] = key(["train"], "splits to train on")
    valid_splits: list[str] = key(
        [],
        "splits to evaluate on every `valid_every` steps; the task's metric decides which checkpoint is best",
        effect=False,
    )
    valid_tasks: list[str] = key(
        [],
        "tasks that each validation evaluates all data sets' `valid_splits` as too, with a curve each",
        names="task",
        effect=False,
    )
    valid_every: int = key(0, "steps between validations; 0: at the end of each epoch", low=0, effect=False)
    test_splits: list[str] = key([], "splits to evaluate on before and after training", effect=False)
    batch_size_eval: int = key(32, "samples per batch in validation and evaluation", low=1, effect=False)
    evaluate: bool = key(False, "True: evaluate on `test_splits` and do not train", effect=False)
    max_bad_fraction: float = key(0.5, "largest part of the samples read that may be bad", low=0, high=1)
    max_bad_steps: int = key(
        20,
        "how many updates in a row without a finite loss and gradient stop the run (float16's scaler may "
        "need 16 to find its scale)",
        low=1,
    )

    seed: int = key(42, "decides everything that is random", low=0, high=2**32 - 1)
    device: str | None = key(None, "`cuda`, `mps` (untested) or `cpu`; null: the best there is", effect=False)
    num_workers: int = key(4, "processes that read the training data", low=0, high=256, effect=False)
    sort_window: int = key(
        1,
        "batches of samples of similar length, with less padding: so many batches are read at once, their "
        "samples sorted, and given in random order; each worker keeps them in memory, per data set. 1: no "
        "sorting",
        low=1,
        high=1000,
    )

    output_dir: str = key(doc="folder for everything that is written", path=True, effect=False)
    resume_ckpt_path: str | None = key(
        None,
        "a checkpoint of ours whose training goes on, or `auto`: the newest in `output_dir`, if there is "
        "one; `--resume` sets it",
        path=True,
        effect=False,
    )
    save_every: int = key(
        0, "steps between checkpoints, besides those at the end of each epoch; 0: none", low=0, effect=False
    )
    save_minutes: float = key(30.0, "minutes between checkpoints, likewise; 0: none", low=0, effect=False)
    keep: int = key(
        5,
        "how many checkpoints of epochs' ends, and how many of those between, are kept, besides the best and "
        "the latest",
        low=1,
        effect=False,
    )
    log_freq: int = key(50, "steps between lines of the log", low=1, effect=False)
    tracker: list[str] = key(
        [],
        "trackers that get what the log gets (`pip install .[track]`)",
        choices=TRACKERS,
        effect=False,
    )
    wandb_log: bool = key(
        False,
        "True: the original's way to say `tracker: [wandb]`; ignored where wandb is missing",
        effect=False,
    )
    job_name: str = key("", "the run's name in the trackers; empty: the name of the folder", effect=False)

    distributed: bool = key(
        False,
        "accepted from the original's YAMLs; the launcher (torchrun, accelerate launch) decides",
        effect=False,
    )
    world_size: int = key(
        1, "likewise; there is a warning if the launcher started a different number", low=1, effect=False
    )
    dist_url: str = key("env://", "likewise; ranks find each other as the launcher says", effect=False)
    dist_backend: str | None = key(
        None, "how ranks talk: `nccl`, `gloo`; null: accelerate's choice", effect=False
    )

    name: str = key("", "stands in the original's evaluation YAMLs; nothing reads it", effect=False)
    save_path: str = key("", "likewise", effect=False)

    def __post_init__(self) -> None:
        check_trackers(self.tracker)
        if not self.train_splits or len(set(self.train_splits)) < len(self.train_splits):
            raise ConfigError(f"run.train_splits is {self.train_splits}, it must name splits, each once")
        if len(set(self.valid_tasks)) < len(self.valid_tasks):
            raise ConfigError(f"run.valid_tasks is {self.valid_tasks}, it must name each task once")
        if self.valid_tasks and not self.valid_splits:
            raise ConfigError("run.valid_tasks is set without run.valid_splits: nothing would be evaluated")
        if self.dist_url != "env://":
            raise ConfigError(
                f"run.dist_url is {self.dist_url!r}: ranks find each other as the launcher says (torchrun "
                "--rdzv-endpoint HOST:PORT), so only env:// is accepted"
            )

    def epoch_of(self, step: int) -> int:
        """The number of the epoch that a step belongs to; steps begin with 1, epochs with 0."""
        return (step - 1) // self.iters_per_epoch

    def trackers(self) -> list[str]:
        """The trackers to use: those of `tracker`, and wandb for `wandb_log`."""
        if not self.wandb_log or "wandb" in self.tracker:
            return self.tracker
        try:
            check_trackers(["wandb"])
        except ConfigError as error:
            log.warning("run.wandb_log has no effect: %s", error)  # the original's YAMLs all have it
            return self.tracker
        return [*self.tracker, "wandb"]

    def warn_about_launch(self, processes: int) -> None:
        """Say what `world_size` asked for, where the launcher did otherwise."""
        if self.world_size not in (1, processes):
            log.warning(
                "run.world_size is %d, but %d process%s started: torchrun --nproc-per-node %d train.py ...",
                self.world_size,
                processes,
                " was" if processes == 1 else "es were",
                self.world_size,
            )

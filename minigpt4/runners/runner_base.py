"""The training loop: when to step, log, save and evaluate. Devices, precision and ranks are accelerate's."""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from tqdm import tqdm

from minigpt4.common.checkpoint import read_checkpoint, save_checkpoint
from minigpt4.common.config import Config, bind
from minigpt4.common.device import has_fast_bf16, pick_device
from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.common.logger import JsonLines
from minigpt4.common.registry import registry
from minigpt4.common.rng import rng_state, set_rng_state
from minigpt4.common.weights import resolve_file
from minigpt4.datasets.builders import BaseDatasetBuilder
from minigpt4.datasets.collate import BatchStream
from minigpt4.datasets.mixing import TrainLoader, TrainStream
from minigpt4.models.base_model import BaseModel
from minigpt4.runners.report import write_report
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks.base_task import BaseTask

log = logging.getLogger(__name__)


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains a model on datasets, as a task says.

    Args:
        cfg: the whole configuration; it goes into checkpoints.
        task: what a step and an evaluation are.
        model: its trainable parameters are trained.
        datasets: name -> (builder, datasets by split), as `BaseTask.build_datasets` gives them.
    """

    def __init__(
        self,
        cfg: Config,
        task: BaseTask,
        model: BaseModel,
        datasets: dict[str, tuple[BaseDatasetBuilder, dict]],
    ) -> None:
        self.cfg = cfg
        self.settings = RunSettings(**bind(RunSettings, cfg.run_cfg, where="run"))
        self.task = task
        self.datasets = datasets
        self.accelerator = make_accelerator(self.settings)
        self.output_dir = Path(self.settings.output_dir)
        self.log = JsonLines(self.output_dir / "log.jsonl")
        self.start_epoch = 0
        self.bad = Counter()
        self.sampler_state: dict[str, Any] = {"drawn": 0, "loaders": {}}
        if self.settings.wandb_log:
            log.warning("run.wandb_log: True has no effect yet; the run is logged to %s", self.log.path)

        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError(
                "nothing is trained: everything is frozen (model.freeze_vit, model.freeze_qformer)"
            )
        self.optimizer = self._make_optimizer(parameters)
        self.model, self.optimizer = self.accelerator.prepare(model, self.optimizer)
        self.scheduler = self._make_scheduler()

    @property
    def bare_model(self) -> BaseModel:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def _make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        decayed = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.settings.init_lr, betas=(0.9, self.settings.beta2))

    def _make_scheduler(self) -> Any:
        scheduler_class = registry.get_lr_scheduler_class(self.settings.lr_sched)
        s = self.settings
        arguments = {
            "max_epoch": s.max_epoch,
            "iters_per_epoch": s.iters_per_epoch,
            "min_lr": s.min_lr,
            "init_lr": s.init_lr,
            "warmup_steps": s.warmup_steps,
            "warmup_start_lr": s.warmup_lr,
        }
        if s.lr_sched == "linear_warmup_step_lr":
            arguments["decay_rate"] = s.lr_decay_rate
        return scheduler_class(self.optimizer, **arguments)

    def _train_batches(self) -> TrainStream:
        """All that is trained on, from where the checkpoint left it."""
        loaders, ratios = {}, []
        resumed = self.sampler_state["loaders"]
        for name, (builder, splits) in self.datasets.items():
            for split in self.settings.train_splits:
                if split not in splits:
                    raise ConfigError(f"run.train_splits: datasets.{name} has no split {split!r}")
                loaders[f"{name}.{split}"] = TrainLoader(
                    splits[split],
                    builder.batch_size,
                    max_bad_fraction=self.settings.max_bad_fraction,
                    rank=self.accelerator.process_index,
                    world_size=self.accelerator.num_processes,
                    workers=self.settings.num_workers,
                    pin_memory=self.accelerator.device.type == "cuda",
                    state=resumed.get(f"{name}.{split}"),
                )
                ratios.append(builder.sample_ratio)
        stream = TrainStream(loaders, ratios, self.settings.seed, self.sampler_state["drawn"])
        if self.accelerator.is_main_process:
            stream.describe(resumed)
        self.bad = stream.bad()
        return stream

    def train(self) -> dict[str, Any]:
        """Train, evaluate, and leave checkpoint, log, plots and report in `output_dir`.

        Returns:
            What `report.json` holds.
        """
        set_seed(self.settings.seed, device_specific=True)
        if self.settings.resume_ckpt_path:
            self._resume(self.settings.resume_ckpt_path)
        elif self.accelerator.is_main_process and not self.settings.evaluate:
            keep_earlier_run(self.output_dir)
        self.accelerator.wait_for_everyone()
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._say_what_is_trained()
        batches = self._train_batches()  # a split that is not there is told before anything is evaluated
        before, _ = self.evaluate()
        if self.settings.evaluate:
            return before
        started = time.perf_counter()
        with closing(batches):
            for epoch in range(self.start_epoch, self.settings.max_epoch):
                self._train_epoch(epoch, batches)
                self._save(epoch, batches)
        seconds = time.perf_counter() - started
        after, records = self.evaluate()
        report = {
            **after,
            "before": before,
            "train_seconds": round(seconds, 1),
            "trainable_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "steps": (self.settings.max_epoch - self.start_epoch) * self.settings.iters_per_epoch,
            "bad_samples": dict(self.bad),
        }
        if self.accelerator.is_main_process:
            write_report(self.output_dir, report, self.log.read(), records)
        return report

    def _train_epoch(self, epoch: int, batches: Iterator[dict[str, Any]]) -> None:
        s = self.settings
        self.model.train()
        running = torch.zeros((), device=self.accelerator.device)
        counted, images, since = 0, 0, time.perf_counter()
        steps = tqdm(
            range(s.iters_per_epoch),
            desc=f"epoch {epoch}",
            disable=None if self.accelerator.is_main_process else True,
        )
        for i, samples in zip(steps, islice(batches, s.iters_per_epoch), strict=True):
            self.bad.update(samples.pop("bad"))
            rate = self.scheduler.step(cur_epoch=epoch, cur_step=i)
            running += self._step(samples)
            counted += 1
            images += len(samples["answer"])
            step = epoch * s.iters_per_epoch + i + 1
            if step % s.log_freq == 0 or i + 1 == s.iters_per_epoch:
                loss = self.accelerator.reduce(running / counted, reduction="mean").item()
                speed = images * self.accelerator.num_processes / (time.perf_counter() - since)
                self._log_step(step=step, epoch=epoch, loss=loss, lr=rate, images_per_second=round(speed, 1))
                running.zero_()
                counted, images, since = 0, 0, time.perf_counter()

    def _step(self, samples: dict[str, Any]) -> torch.Tensor:
        """One batch forth and back; the optimizer steps at every `accum_grad_iters`-th."""
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                loss = self.task.train_step(self.model, samples)
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients and self.settings.grad_clip:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach()

    def _log_step(self, **values: Any) -> None:
        if not self.accelerator.is_main_process:
            return
        self.log.write(**values, bad=dict(self.bad))
        bad = f", bad {dict(self.bad)}" if self.bad else ""
        log.info(
            "epoch %d, step %d: loss %.4f, lr %.2e, %.0f images/s%s",
            values["epoch"],
            values["step"],
            values["loss"],
            values["lr"],
            values["images_per_second"],
            bad,
        )

    def _say_what_is_trained(self) -> None:
        for part, count in self.bare_model.parameter_summary().items():
            log.info(
                "%-16s %12s parameters, %s trained", part, f"{count['total']:,}", f"{count['trainable']:,}"
            )

    def evaluate(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Caption all of `test_splits` on the main process -> (metrics, records). Empty without any."""
        records: list[dict[str, Any]] = []
        if not self.settings.test_splits or not self.accelerator.is_main_process:
            return {}, records
        for name, (_, splits) in self.datasets.items():
            for split in self.settings.test_splits:
                if split not in splits:
                    raise ConfigError(f"run.test_splits: datasets.{name} has no split {split!r}")
                stream = BatchStream(
                    splits[split], self.settings.batch_size_eval, self.settings.max_bad_fraction
                )
                records += self.task.evaluate(self.bare_model, stream, keep_images=16 - len(records))
        metrics = self.task.summarize(records)
        log.info("evaluation: %s", ", ".join(f"{key} {value:.4g}" for key, value in metrics.items()))
        return metrics, records

    def _save(self, epoch: int, batches: TrainStream) -> None:
        # What each rank has of its own. Every rank must come here: they wait for each other.
        ranks = gather_object([{"sampler": batches.state(), "rng": rng_state(self.accelerator.device)}])
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.bare_model.trainable_state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "sampler": [rank["sampler"] for rank in ranks],
            "rng": [rank["rng"] for rank in ranks],
            "epoch": epoch,
            "step": (epoch + 1) * self.settings.iters_per_epoch,
            "config": self.cfg.to_dict(),
            "meta": self.bare_model.checkpoint_meta(),
        }
        save_checkpoint(state, self.output_dir / f"checkpoint_{epoch}.pth")
        save_checkpoint(state, self.output_dir / "checkpoint_latest.pth")
        log.info("saved %s", self.output_dir / f"checkpoint_{epoch}.pth")

    def _resume(self, path: str) -> None:
        path = resolve_file(path, "run.resume_ckpt_path")
        checkpoint = read_checkpoint(path)
        for key in ("optimizer", "epoch", "rng", "sampler"):
            if key not in checkpoint:
                raise CheckpointError(f"run.resume_ckpt_path: {path} has no {key!r}, it cannot be resumed")
        self.bare_model.load_checkpoint(path)
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        if self.accelerator.scaler and checkpoint.get("scaler"):
            self.accelerator.scaler.load_state_dict(checkpoint["scaler"])
        # A rank that was not there before keeps its new generators, and begins a new order of the data.
        rank, ranks = self.accelerator.process_index, len(checkpoint["sampler"])
        self.sampler_state = checkpoint["sampler"][rank if rank < ranks else 0]
        if rank < ranks:
            set_rng_state(checkpoint["rng"][rank], self.accelerator.device)
        self.start_epoch = checkpoint["epoch"] + 1
        log.info("resuming %s with epoch %d", path, self.start_epoch)


def make_accelerator(settings: RunSettings) -> Accelerator:
    """accelerate's engine on the device that was asked for, in the precision that pays there."""
    device = pick_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    precision = "no"
    if settings.amp and device.type in ("cuda", "cpu"):
        if has_fast_bf16(device):
            precision = "bf16"
        elif device.type == "cuda":
            precision = "fp16"
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=settings.accum_grad_iters,
    )


def keep_earlier_run(folder: Path) -> None:
    """Move what an earlier run left in the output folder to `folder.1`, `folder.2`, ... Nothing is lost."""
    if not (folder / "log.jsonl").exists():
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(kept)
    log.info("moved the earlier run in %s to %s", folder, kept)

"""One update of the weights, on one device or many. accelerate takes care of precision and ranks."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, patch_environment
from torch.nn.parallel import DistributedDataParallel

from minigpt4.common import launch
from minigpt4.common.device import has_fast_bf16, pick_device
from minigpt4.common.errors import ConfigError
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.micro_batches import MicroBatches
from minigpt4.runners.schedules import make_schedule
from minigpt4.runners.settings import RunSettings
from minigpt4.tasks.base_task import BaseTask

# How long ranks wait for one that does not come. None is that much slower than the others, be it in reading a
# model or in its share of an evaluation.
TIMEOUT = timedelta(minutes=20)


class Requests(NamedTuple):
    """What a rank asks all ranks to do after an update.

    Attributes:
        stop: save, and end the run.
        save: write a checkpoint.
    """

    stop: bool = False
    save: bool = False

    def __or__(self, other: "Requests") -> "Requests":  # type: ignore[override]
        return Requests(self.stop or other.stop, self.save or other.save)


@dataclass(frozen=True)
class UpdateResult:
    """An update, over all ranks.

    Attributes:
        targets, tokens, images: how many; see `MicroBatches`.
        requests: what any rank has asked for.
        loss: the sum over all targets, in nats.
        norm: of the gradient, before clipping.
    """

    targets: int
    tokens: int
    images: int
    requests: Requests
    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether the weights were changed by it; else the update was skipped."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


@dataclass(frozen=True)
class PendingUpdate:
    """An update that the device may still be computing.

    Attributes:
        micro_batches: of this rank.
        step: how many steps there are after it.
        learning_rate: that it was made with.
        values: targets, tokens, images, the requests, loss, norm of the gradient.
        arrived: on a GPU, when `values` can be read.
    """

    micro_batches: MicroBatches
    step: int
    learning_rate: float
    values: torch.Tensor
    arrived: torch.cuda.Event | None

    def result(self) -> UpdateResult:
        """Wait for the result."""
        if self.arrived is not None:
            self.arrived.synchronize()
        targets, tokens, images, stop, save, loss, norm = self.values.tolist()
        requests = Requests(stop > 0, save > 0)
        return UpdateResult(int(targets), int(tokens), int(images), requests, loss, norm)


class Engine:
    """Model and optimizer, as accelerate prepared them, and how they do an update.

    Args:
        settings: of the run.
        task: says what the loss of a batch is.
        model: its trainable parameters are trained.

    Attributes:
        model: with what accelerate wraps around it; `bare_model` is without it.
        sharded: whether the ranks share the language model, and must all call it together.
    """

    def __init__(self, settings: RunSettings, task: BaseTask, model: MiniGPTBase) -> None:
        self.settings = settings
        self.task = task
        self.accelerator = make_accelerator(settings)
        self.bare_model = model
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError(
                "nothing is trained: everything is frozen (model.freeze_vit, model.freeze_qformer)"
            )
        leave_frozen_alone(model)
        self.model, self.optimizer = self.accelerator.prepare(model, self._make_optimizer(parameters))
        frozen = model.part_to_shard()
        self.sharded = frozen is not None
        if frozen is not None:
            from minigpt4.runners.sharding import shard_layers

            # After accelerate: it knows DDP or FSDP, not the one around the other.
            shard_layers(frozen, self.device)
        self.schedule = make_schedule(settings, self.optimizer)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def _make_optimizer(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        decayed = [p for p in parameters if p.ndim > 1]
        others = [p for p in parameters if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        betas = (0.9, self.settings.beta2)
        # Fused, it is one kernel, and a tensor on the device can tell it to change nothing.
        return torch.optim.AdamW(groups, lr=self.settings.init_lr, betas=betas, fused=True)

    def update(self, micro_batches: MicroBatches, step: int, requests: Requests) -> PendingUpdate:
        """Forward, backward, and a step of the optimizer, which is skipped if loss or gradient is not finite.

        The loss is the mean over all target tokens of all micro-batches on all ranks, so every token has the
        same weight. Nothing here waits for the device.

        Args:
            micro_batches: of this rank, prepared; their gradients are accumulated.
            step: how many steps there are after it; decides the learning rate.
            requests: of this rank, to all.
        """
        epoch, last = divmod(step - 1, self.settings.iters_per_epoch)
        learning_rate = self.schedule.step(cur_epoch=epoch, cur_step=last)
        # float32 counts to 16 million without a gap.
        counts = (micro_batches.targets, micro_batches.tokens, micro_batches.images)
        sums = self._sum([*counts, *requests])
        # accelerate (and DDP below it) average gradients over the ranks, but they are meant to add up.
        share = self.accelerator.num_processes / sums[0]
        losses = torch.zeros((), device=self.device)
        for samples in micro_batches.batches:
            last = samples is micro_batches.batches[-1]
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.task.train_step(self.model, samples)
                self.accelerator.backward(loss * share)
            losses += loss.detach()
        limit = self.settings.grad_clip or math.inf
        norm = cast(torch.Tensor, self.accelerator.clip_grad_norm_(self.model.parameters(), limit))
        losses = cast(torch.Tensor, self.accelerator.reduce(losses, "sum"))
        # As torch's own gradient scaler does in float16 (where it decides): with this set, the optimizer's
        # step changes nothing, nor does it count.
        finite = torch.isfinite(losses) & torch.isfinite(norm)
        self.optimizer.optimizer.found_inf = (~finite).float()
        self.optimizer.step()
        self.optimizer.zero_grad()
        values = torch.cat([sums, torch.stack([losses, norm])])
        arrived = None
        if self.device.type == "cuda":
            values, arrived = values.to("cpu", non_blocking=True), torch.cuda.Event()
            arrived.record()
        return PendingUpdate(micro_batches, step, learning_rate, values, arrived)

    def _sum(self, values: Sequence[float]) -> torch.Tensor:
        """Sum each value over all ranks, on the device."""
        tensor = torch.tensor(values, dtype=torch.float32)
        if self.device.type == "cuda":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        return cast(torch.Tensor, self.accelerator.reduce(tensor.to(self.device), "sum"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the weights and the optimizer."""
        scaler = self.accelerator.scaler
        return {
            "model": self.bare_model.trainable_state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
        }

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Load the optimizer's state from a checkpoint; the model loads the weights.

        Only the averages of gradients are restored. Decay and the other hyperparameters come from the current
        settings; the schedule sets the learning rate before each update.

        Raises:
            KeyError, ValueError: if it does not fit the parameters, which the optimizer itself would only
                notice in its next step.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for place, values in state["optimizer"]["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                found, right = torch.as_tensor(values[name]).shape, parameters[place].shape
                if found != right:
                    raise ValueError(f"the optimizer's {name} is {list(found)}, the parameter {list(right)}")
            float(values["step"])
        learned = ("params", "lr")
        own = [{k: v for k, v in group.items() if k not in learned} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)
        if self.accelerator.scaler and state.get("scaler"):
            self.accelerator.scaler.load_state_dict(state["scaler"])


def make_accelerator(settings: RunSettings) -> Accelerator:
    """accelerate, set up for the device that was asked for, with the precision that is fast there."""
    device = pick_device(settings.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    precision = "no"
    if settings.amp and device.type in ("cuda", "cpu"):
        if has_fast_bf16(device):
            precision = "bf16"
        elif device.type == "cuda":
            precision = "fp16"
    # It keeps device and precision of a process's first run; a later one may ask for others.
    AcceleratorState._reset_state(reset_partial_state=True)
    # Where a backend is named, accelerate assumes a launcher.
    backend = settings.dist_backend if launch.is_launched() else None
    # `accelerate launch --use_fsdp` asks for what `shard_layers` does. accelerate's own FSDP would shard the
    # trained layers too, which optimizer and checkpoints want whole.
    with patch_environment(**{launch.FSDP: "false"}):
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            device_placement=False,  # the model was built where it belongs
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=backend, timeout=TIMEOUT),
                # Without it, there would be a second copy of the gradients.
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )


def leave_frozen_alone(model: MiniGPTBase) -> None:
    """Have DDP synchronise the trained parameters only.

    All ranks read the frozen ones from the same files; DDP would send all of them from the first rank to all
    others at its start.
    """
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    buffers = [name for name, _ in model.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen + buffers)

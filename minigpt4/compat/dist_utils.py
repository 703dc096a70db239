"""The original's questions about ranks, answered by the launcher or by torch's process group."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist
from omegaconf import OmegaConf

from minigpt4.common import launch

R = TypeVar("R")


def is_dist_avail_and_initialized() -> bool:
    """Whether the ranks are connected."""
    return dist.is_available() and dist.is_initialized()


def get_rank() -> int:
    """This process's number among all."""
    return dist.get_rank() if is_dist_avail_and_initialized() else launch.rank()


def get_world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if is_dist_avail_and_initialized() else launch.world_size()


def is_main_process() -> bool:
    """Whether this process speaks for all."""
    return get_rank() == 0


def main_process(function: Callable[..., R]) -> Callable[..., R | None]:
    """Decorator: the first process runs the function, the others return None."""

    @functools.wraps(function)
    def wrapped(*args: Any, **arguments: Any) -> R | None:
        return function(*args, **arguments) if is_main_process() else None

    return wrapped


def init_distributed_mode(args: Any) -> None:
    """Connect the ranks, where a launcher started several processes, and write into `args` what they are.

    `distributed` and `world_size` are set, and, unless `args` is the section `run:`, which knows no such
    keys, `rank` and `gpu`.

    Args:
        args: a namespace or `cfg.run_cfg`; with `device: cpu` the ranks are connected by gloo.
    """
    args.distributed = launch.is_launched()
    if not args.distributed:
        return
    from accelerate import PartialState

    PartialState(cpu=str(getattr(args, "device", "")) == "cpu" or launch.wants_cpu())
    args.world_size = get_world_size()
    if not OmegaConf.is_config(args):
        args.rank, args.gpu = get_rank(), launch.local_rank()


def download_cached_file(url: str, check_hash: bool = True, progress: bool = False) -> str:
    """The path of a file of weights, after a download if it is not on this disk."""
    from minigpt4.weights.resolver import resolve_file

    return str(resolve_file(url, "download_cached_file"))

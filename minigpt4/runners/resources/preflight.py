"""What can go wrong in a run and can be known before its first step is checked before its first step."""

import logging
import shutil
from pathlib import Path

import torch

from minigpt4.common.errors import ConfigError
from minigpt4.common.formatting import format_bytes
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.models.base_model import BaseModel
from minigpt4.models.library_check import check_gradient
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.output_folder import check_output, nearest_existing
from minigpt4.runners.resources.advice import memory_advice
from minigpt4.runners.resources.memory import CountedMemory, available_memory, count_memory
from minigpt4.runners.settings import RunSettings

log = logging.getLogger(__name__)


def preflight(
    model: MiniGPTBase, datasets: Datasets, settings: RunSettings, device: torch.device
) -> CountedMemory:
    """Check all that a run needs outside of itself.

    Paths, names and widths were checked when the datasets and the model were built; here it is what only
    both together show, and the place where the run writes. Where the memory cannot be enough, there is a
    warning that says what would help.

    Args:
        model: built, and not yet sharded.
        datasets: name -> (builder, datasets by split).
        settings: of the run.
        device: of this process.

    Returns:
        What of the memory could be counted.

    Raises:
        ConfigError: naming the YAML key.
    """
    if not model.language.sharded:  # a sharded one is still on the CPU, where a step may take minutes
        check_gradient(model.language)
    folder = Path(settings.output_dir)
    check_output(folder)
    check_disk(folder, model, settings)
    batch_size = max(builder.batch_size for builder, _ in datasets.values())
    counted = count_memory(model, batch_size, settings.accum_grad_iters)
    available = available_memory(device)
    if available is not None and counted.total > available:
        log.warning(
            "%s has %s, but the weights, gradients, optimizer state, images and logits of a step of %d "
            "samples alone are %s, and activations come on top.\n%s",
            device,
            format_bytes(available),
            batch_size,
            format_bytes(counted.total),
            memory_advice(model, batch_size, settings.accum_grad_iters),
        )
    return counted


def checkpoint_bytes(model: BaseModel) -> int:
    """What one takes: trained weights, AdamW's two averages of each, and a little for all else."""
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return 3 * trained + 10**5


def checkpoints_to_come(settings: RunSettings) -> int:
    """How many lie there at most: `keep` of each kind, the best and the latest, and one being written.

    The last two are second names where the file system can link, but of files that may be gone otherwise.
    """
    between = settings.keep if settings.save_every or settings.save_minutes else 0
    return min(settings.keep, settings.max_epoch) + between + 3


def check_disk(folder: Path, model: BaseModel, settings: RunSettings) -> None:
    """Raise ConfigError if the checkpoints to come need more than is free, beside those they will replace."""
    size, count = checkpoint_bytes(model), checkpoints_to_come(settings)
    free = shutil.disk_usage(nearest_existing(folder)).free
    there = 0
    if settings.resume_ckpt_path:
        # A file with two names is there once.
        there = sum({(s.st_dev, s.st_ino): s.st_size for s in map(Path.stat, folder.glob("*.pth"))}.values())
    if size * count > free + there:
        raise ConfigError(
            f"run.output_dir: {format_bytes(free)} are free in {folder}, but this run's checkpoints may "
            f"need {format_bytes(size * count - there)}: {count} of {format_bytes(size)} each. Please make "
            f"room, name another place, or keep fewer of them (run.keep is {settings.keep}, of each kind)"
        )

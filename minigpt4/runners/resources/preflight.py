"""What can be known to go wrong before the first step, is told before the first step."""

import errno
import logging
import shutil
import tempfile
from pathlib import Path

import torch

from minigpt4.common.errors import ConfigError, TrainingError
from minigpt4.common.formatting import format_bytes
from minigpt4.datasets.builders.base_dataset_builder import Datasets
from minigpt4.models.base_model import BaseModel
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.resources.memory import (
    MemoryEstimate,
    available_memory,
    estimate_memory,
    memory_advice,
    sample_tokens,
)
from minigpt4.runners.settings import RunSettings
from minigpt4.weights.download import DISK_FULL

log = logging.getLogger(__name__)

# What torch's allocators say that raise no OutOfMemoryError: the CPU's, MPS's, and the CUDA libraries' own.
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "_ALLOC_FAILED")


def preflight(
    model: MiniGPTBase, datasets: Datasets, settings: RunSettings, device: torch.device, ranks: int
) -> MemoryEstimate:
    """Check all that a run needs outside of itself.

    Paths, names and widths were checked when the datasets and the model were built; here it is what only
    both together show, and the place where the run writes. Memory is estimated, and an estimate refuses
    nothing: where it will probably not do, there is a warning that says what would.

    Args:
        model: built, and not yet sharded.
        datasets: name -> (builder, datasets by split).
        settings: of the run.
        device: of this process.
        ranks: so many share the language model, or could.

    Raises:
        ConfigError: naming the YAML key.
    """
    check_lengths(model)
    folder = Path(settings.output_dir)
    check_output(folder)
    check_disk(folder, model, settings)
    estimate = estimate_memory(
        model,
        batch_size=max(builder.batch_size for builder, _ in datasets.values()),
        accum_grad_iters=settings.accum_grad_iters,
        ranks=ranks,
    )
    available = available_memory(device)
    if available is not None and not estimate.fits(available):
        log.warning(
            "a step of %d samples needs about %s, and %s has %s, of which a tenth should stay free. %s",
            estimate.batch_size,
            format_bytes(estimate.total),
            device,
            format_bytes(available),
            memory_advice(estimate, available, settings.accum_grad_iters),
        )
    return estimate


def check_lengths(model: MiniGPTBase) -> None:
    """Raise ConfigError if a caption under a prompt is longer than what the language model was made for."""
    most = getattr(model.llama_model.config.get_text_config(), "max_position_embeddings", None)
    tokens = sample_tokens(model)
    if most is not None and tokens > most:
        raise ConfigError(
            f"model.max_txt_len is {model.max_txt_len}, so with the longest prompt of model.prompt_path and "
            f"{model.token_shape.count} tokens an image a sample has {tokens} tokens, but the language model "
            f"was made for {most} (max_position_embeddings)"
        )


def check_output(folder: Path) -> None:
    """Make the run's folder, and write a file there, which is removed again.

    Raises:
        ConfigError: if that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable_", suffix=".part") as probe:
            probe.write(bytes(4096))
            probe.flush()
    except (FileExistsError, NotADirectoryError) as error:
        file = next(path for path in (folder, *folder.parents) if path.exists())
        raise ConfigError(f"run.output_dir is {str(folder)!r}, but {file} is a file, no folder") from error
    except OSError as error:
        full = "; make room there, or name another place" if error.errno == errno.ENOSPC else ""
        raise ConfigError(f"run.output_dir: nothing can be written to {folder}: {error}{full}") from error


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
    free = shutil.disk_usage(folder).free
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


def is_no_room(error: BaseException) -> bool:
    """Whether a disk was full, or a quota or limit of it reached."""
    return isinstance(error, OSError) and error.errno in (*DISK_FULL, errno.EFBIG)


def no_room_advice(error: OSError, folder: Path) -> TrainingError:
    """What to raise in place of (and from) an error that `is_no_room`.

    Args:
        error: what ended the run.
        folder: the run's.
    """
    return TrainingError(
        f"{error.filename or folder} could not be written: {error.strerror}. Make room and go on from the "
        "newest checkpoint with --resume auto"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def out_of_memory_advice(
    error: BaseException, estimate: MemoryEstimate, settings: RunSettings, device: torch.device
) -> TrainingError:
    """What to raise in place of (and from) an error that `is_out_of_memory`.

    Args:
        error: what ended the step.
        estimate: the preflight's.
        settings: of the run.
        device: of this process.
    """
    available = available_memory(device)
    # What was tried was too much, whatever the estimate said.
    limit = min(available or estimate.total, estimate.total)
    reason, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return TrainingError(
        f"{device} ran out of memory ({reason}). A step of {estimate.batch_size} "
        f"samples was estimated at {format_bytes(estimate.total)}"
        + (f", of {format_bytes(available)}. " if available else ". ")
        + memory_advice(estimate, limit, settings.accum_grad_iters)
    )

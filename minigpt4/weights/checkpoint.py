"""Checkpoints: written whole or not at all, read without running code, and checked key by key."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minigpt4.common.errors import CheckpointError, nearest
from minigpt4.common.files import replacing
from minigpt4.weights.resolver import read_tensors


def save_checkpoint(state: Mapping[str, Any], path: str | Path) -> None:
    """Write `state` so that `path` is, at every moment, the old file or the new one, never a part.

    Raises:
        OSError: if it cannot be written, on a full disk for example. What was there before still is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(dict(state), file)
        except RuntimeError as error:
            # torch's writer stumbles over the failure of the file, and tells of its own alone.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut. Windows has no such call, and needs none."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint as MiniGPT-4 lays it out.

    Returns:
        A dict with at least `model` (key -> tensor); a bare dict of tensors is taken for the model.

    Raises:
        CheckpointError: as `read_tensors`.
    """
    content = read_tensors(path)
    if "model" not in content:
        content = {"model": content}
    tensors = content["model"]
    if not isinstance(tensors, dict) or not all(map(torch.is_tensor, tensors.values())):
        raise CheckpointError(f"{path}: `model` must hold tensors only")
    if not all(isinstance(key, str) for key in tensors):
        raise CheckpointError(f"{path}: the keys of `model` must be names of tensors")
    return content


def load_into(
    module: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    *,
    source: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    key_of: Callable[[str], str] = str,
    hint: str = "",
) -> None:
    """Copy tensors into parameters and buffers of the same names.

    Parameters on the `meta` device are allocated one by one, so that there is never a second copy of the
    module. Each tensor must have a place; the caller checks for missing ones (`require_keys`).

    Args:
        module: the target.
        tensors: by the names of its parameters and buffers.
        source: the file, for messages.
        device, dtype: of allocated parameters.
        key_of: a name -> its key in the file, for messages.
        hint: added to the message about a shape.

    Raises:
        CheckpointError: naming the unexpected key or both shapes.
    """
    places = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in tensors.items():
        if name not in places:
            key, known = key_of(name), map(key_of, places)
            raise CheckpointError(f"{source}: unexpected key {key!r}{nearest(key, known)}")
        if places[name].shape != tensor.shape:
            raise CheckpointError(
                f"{source}: {key_of(name)} is {list(tensor.shape)}, "
                f"the model wants {list(places[name].shape)}{hint}"
            )
        if places[name].is_floating_point() != tensor.is_floating_point():
            raise CheckpointError(
                f"{source}: {key_of(name)} is {tensor.dtype}, the model wants {places[name].dtype}"
            )
    with torch.no_grad():
        for key, tensor in tensors.items():
            place = places[key]
            if not place.is_meta:
                place.copy_(tensor)
                continue
            owner, _, name = key.rpartition(".")
            # Always a copy: the tensor may be a view of the file.
            value = tensor.to(device=device, dtype=dtype, copy=True)
            setattr(module.get_submodule(owner), name, nn.Parameter(value, place.requires_grad))


def require_keys(needed: set[str], found: Mapping[str, Any], *, source: str) -> None:
    """Raise CheckpointError unless all `needed` keys are in `found`."""
    missing = sorted(needed - set(found))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(f"{source}: the key {missing[0]!r}{more} is missing")

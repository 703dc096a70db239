"""The random generators that a training step draws from, so that a checkpoint can hold them."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of Python's and torch's generators in this process and, for a GPU, of the GPU's."""
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"python": random.getstate(), "torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what `rng_state` gave. A GPU's generator stays as it is if the state has none of it."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Whatever is drawn inside, the generators go on after it as if nothing had been drawn."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)

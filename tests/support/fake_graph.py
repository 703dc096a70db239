"""A CUDA graph without CUDA: the operations of one run, which are repeated on the same tensors.

As on a card, Python runs once, while recording: whatever it decides or computes then stays as it is.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt4.models import fixed_key_values, recorded_step
from minigpt4.models.language_model import LanguageModel

WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select"}


class FakeGraph(TorchDispatchMode):
    """Records the operations within `with`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name in WAITING:
            raise RuntimeError(f"the host waits for {func._schema.name}")
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for kind, kept, made in zip(func._schema.returns, _listed(out), _listed(again), strict=False):
                if kind.alias_info is None and isinstance(kept, torch.Tensor):
                    kept.copy_(made)


def _listed(out: Any) -> Any:
    return out if isinstance(out, tuple | list) else [out]


def use(monkeypatch: pytest.MonkeyPatch) -> list[FakeGraph]:
    """Have steps recorded on a CPU as they are on a card; returns the graphs to come."""
    graphs: list[FakeGraph] = []

    def recorded(
        run: Callable[[], torch.Tensor], undo: Callable[[], None], device: torch.device, *, rehearse: bool
    ) -> tuple[FakeGraph, torch.Tensor]:
        run()
        undo()
        with FakeGraph() as graph:
            result = run()
        undo()
        graphs.append(graph)
        return graph, result

    def can_record(language: LanguageModel) -> bool:
        return recorded_step.fits_static_buffers(language)

    monkeypatch.setattr(fixed_key_values, "recorded", recorded)
    monkeypatch.setattr(recorded_step, "can_record", can_record)
    return graphs

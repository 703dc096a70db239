"""How the tiny backbones are optimised: Muon for the matrices of the layers, AdamW for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

_WARM_UP = 0.08  # of all steps


class MuonWithAdamW:
    """Optimisers and their one cycle of learning rates as one thing.

    With updates of the same root mean square as AdamW's, Muon takes AdamW's learning rates, and
    needs far fewer steps for networks of this kind.
    """

    def __init__(self, model: nn.Module, rate: float, steps: int) -> None:
        self.parameters = list(model.parameters())
        # Linear layers inside blocks; not embeddings, nor classifiers.
        matrices = {
            module.weight
            for stack in model.modules()
            if isinstance(stack, (nn.ModuleList, nn.Sequential))
            for module in stack.modules()
            if isinstance(module, nn.Linear)
        }
        rest = [p for p in self.parameters if p not in matrices]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                [p for p in self.parameters if p in matrices],
                lr=rate,
                weight_decay=0.02,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.schedules = [
            OneCycleLR(optimizer, rate, steps + 1, pct_start=_WARM_UP, cycle_momentum=False)
            for optimizer in self.optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """Goes one step down the gradient of `loss`."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

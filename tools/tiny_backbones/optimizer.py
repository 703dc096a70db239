"""How the tiny backbones are optimised: Muon for the matrices of the layers, AdamW for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

_WARM_UP = 0.08  # of all steps
_MOMENTUM = 0.95
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Keller Jordan's coefficients, five times over


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices, with updates of the root mean square that AdamW's have.

    `torch.optim.Muon` orthogonalises in bf16, one matrix after the other. On a CPU without bf16 that is most
    of a step. Here it is float32, and all matrices of one shape together.
    """

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step down the gradients."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                alike.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in alike.items():
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, update in zip(matrices, orthogonal(self._directions(matrices)), strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)

    def _directions(self, matrices: list[Tensor]) -> Tensor:
        """Nesterov's momentum: [matrices, rows, columns]."""
        found = []
        for matrix in matrices:
            assert matrix.grad is not None
            held = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
            held.lerp_(matrix.grad, 1 - _MOMENTUM)
            found.append(matrix.grad.lerp(held, _MOMENTUM))
        return torch.stack(found)


def orthogonal(matrices: Tensor) -> Tensor:
    """Newton and Schulz's iteration: the same singular vectors, singular values between about 0.7 and 1.2.

    Args:
        matrices: [N, rows, columns].
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    found = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _QUINTIC
    for _ in range(5):
        square = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found


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
            Muon([p for p in self.parameters if p in matrices], rate, weight_decay=0.02),
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

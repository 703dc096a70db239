"""Cross entropy of the head's logits, without all of them at once.

Shapes: rows are target tokens; D width of the language model, V its vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# So many logits are alive at a time. Each costs up to 16 bytes (bf16; float32 copy, logarithms and gradient;
# bf16 gradient), so 1.1 GB. With the largest vocabularies these are 256 rows, about the number from which a
# GPU's matrix units, and no longer its memory, set the pace (H100: 989 TFLOP/s over 3.35 TB/s = 295 FLOP per
# byte, and a row does 1 FLOP for each byte of the bf16 head). A vocabulary of 32,000 is seldom divided.
LOGITS_AT_A_TIME = 2**26

Head = Callable[[torch.Tensor], torch.Tensor]


def head_losses(
    hidden: torch.Tensor, targets: torch.Tensor, head: Head, vocabulary: int, *, trained: bool = False
) -> torch.Tensor:
    """Cross entropy of each row.

    Args:
        hidden: [rows, D].
        targets: [rows], the token to predict from each.
        head: [n, D] -> logits [n, V] in float32; each row by itself.
        vocabulary: V.
        trained: whether the head's own weights are to get a gradient.

    Returns:
        [rows] in float32.
    """
    rows = max(1, LOGITS_AT_A_TIME // vocabulary)
    if not trained:
        return _HeadLosses.apply(hidden, targets, head, rows)
    chunks = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([checkpoint(_losses, *chunk, head, use_reentrant=False) for chunk in chunks])


def _losses(hidden: torch.Tensor, targets: torch.Tensor, head: Head) -> torch.Tensor:
    logits = head(hidden)
    return F.cross_entropy(logits, targets.to(logits.device), reduction="none")


class _HeadLosses(torch.autograd.Function):
    """Takes the gradient already in the forward pass, while the chunk's logits are there. The head is frozen.

    A row's loss depends on no other row, so the gradient of any function of the losses is the rows' own
    gradients, each times what comes from above.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, targets: torch.Tensor, head: Head, rows: int) -> torch.Tensor:
        losses, gradients = [], []
        for chunk, wanted in zip(hidden.split(rows), targets.split(rows), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                chunk = chunk.detach().requires_grad_(ctx.needs_input_grad[0])
                loss = _losses(chunk, wanted, head)
            losses.append(loss.detach())
            if ctx.needs_input_grad[0]:
                loss.backward(torch.ones_like(loss))
                gradients.append(chunk.grad)
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # In float32 and then rounded: a factor rounded first would bend all rows alike.
        above = above.to(gradient.device)[:, None]
        return (gradient * above).to(gradient.dtype), None, None, None

"""The loss behind the head, chunk by chunk: the numbers of the plain way, without all its logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minigpt4.models import head_loss
from minigpt4.models.head_loss import head_losses
from tests.support.golden import build_golden_model

ROWS, WIDTH, VOCABULARY = 23, 16, 50


def head_of(dtype: torch.dtype, cap: float | None) -> tuple[nn.Linear, head_loss.Head]:
    linear = nn.Linear(WIDTH, VOCABULARY, bias=False, dtype=dtype).requires_grad_(False)

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = linear(hidden).float()
        return cap * torch.tanh(logits / cap) if cap else logits

    return linear, head


@pytest.mark.parametrize("cap", [None, 0.7], ids=["plain", "capped"])
@pytest.mark.parametrize(
    ("dtype", "close"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"]
)
@pytest.mark.parametrize("logits", [1, 7 * VOCABULARY, 10**9], ids=["row by row", "7 rows", "at once"])
def test_losses_and_gradients_of_the_plain_way(monkeypatch, logits, dtype, close, cap) -> None:
    torch.manual_seed(0)
    _, head = head_of(dtype, cap)
    hidden = torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (ROWS,))
    weights = torch.rand(ROWS)  # what comes from above differs from row to row
    plain = F.cross_entropy(head(hidden), targets, reduction="none")
    (expected,) = torch.autograd.grad((plain * weights).sum(), hidden)
    monkeypatch.setattr(head_loss, "LOGITS_AT_A_TIME", logits)
    losses = head_losses(hidden, targets, head, VOCABULARY)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), hidden)
    assert losses.dtype == torch.float32 and gradient.dtype == dtype
    torch.testing.assert_close(losses, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=close, atol=close * expected.abs().max().item())


def test_a_factor_from_above_is_not_rounded_to_bfloat16() -> None:
    """1/111 in bfloat16 is off by 0.2 %, and all rows would be, the same way."""
    torch.manual_seed(0)
    _, head = head_of(torch.bfloat16, None)
    hidden = torch.randn(111, WIDTH, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.randint(0, VOCABULARY, (111,))
    (ones,) = torch.autograd.grad(head_losses(hidden, targets, head, VOCABULARY).sum(), hidden)
    (means,) = torch.autograd.grad(head_losses(hidden, targets, head, VOCABULARY).mean(), hidden)
    ratio = (means.double().abs().sum() / ones.double().abs().sum()).item() * 111
    assert ratio == pytest.approx(1, abs=3e-4)


def test_no_more_logits_than_said_are_alive(monkeypatch) -> None:
    sizes = []
    linear, head = head_of(torch.float32, None)
    linear.register_forward_hook(lambda _m, _args, out: sizes.append(tuple(out.shape)))
    monkeypatch.setattr(head_loss, "LOGITS_AT_A_TIME", 10 * VOCABULARY)
    hidden = torch.randn(ROWS, WIDTH, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        losses = head_losses(hidden, torch.zeros(ROWS, dtype=torch.long), head, VOCABULARY)
    assert sizes == [(10, VOCABULARY), (10, VOCABULARY), (3, VOCABULARY)]
    # Behind the forward pass only the gradient is left; what a chunk keeps goes with the chunk.
    assert kept[-1] == (ROWS, WIDTH) and kept.count((ROWS, WIDTH)) == 1
    losses.sum().backward()
    assert len(sizes) == 3  # nothing is computed again


def test_without_gradients_none_is_computed() -> None:
    _, head = head_of(torch.float32, None)
    with torch.autograd.graph.saved_tensors_hooks(pytest.fail, lambda t: t), torch.no_grad():
        losses = head_losses(torch.randn(ROWS, WIDTH), torch.zeros(ROWS, dtype=torch.long), head, VOCABULARY)
    assert not losses.requires_grad


def test_the_models_gradient_does_not_depend_on_the_chunks(monkeypatch, golden_io) -> None:
    gradients = []
    for logits in (10**9, 1):
        monkeypatch.setattr(head_loss, "LOGITS_AT_A_TIME", logits)
        model = build_golden_model(llm_sanity_check=False).train()
        model({"image": golden_io["image"], "answer": golden_io["captions"]})["loss"].backward()
        gradients.append(model.llama_proj.weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=2e-6)
    torch.testing.assert_close(gradients[0], golden_io["grad_w"], rtol=0, atol=5e-6)

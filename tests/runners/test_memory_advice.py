"""What is advised where a step needs more memory than there is, and how much there is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.runners.resources.memory import (
    MemoryEstimate,
    Saving,
    _control_group_limits,
    available_memory,
    memory_advice,
)


def longer(times: int) -> str:
    return f"the same learning with {times} times run.iters_per_epoch and run.warmup_steps"


def a_step(**changes: Any) -> MemoryEstimate:
    """64 samples of 4 GB, beside 20 GB of weights."""
    savings = (Saving("fewer bits", 10 * 10**9, 0), Saving("recompute", 0, 3 * 10**9))
    values = {
        "weights": {"llama_model": 20 * 10**9},
        "fixed": {},
        "per_sample": {"kept": 4 * 10**9},
        "savings": savings,
    }
    return MemoryEstimate(64, **values | changes)


@pytest.mark.parametrize(
    ("available", "batch", "times"),
    [(200, 32, 8), (95, 16, 16), (60, 8, 32), (58, 8, 32), (57, 4, 64), (28, 1, 256)],
)
def test_the_largest_batch_that_fits_is_proposed_and_the_effective_one_stays(available, batch, times):
    advice = memory_advice(a_step(), available * 10**9, accum_grad_iters=4)
    assert f"batch_size: {batch} and run.accum_grad_iters: {times}, the same learning" in advice
    total = 20 + 4 * batch
    assert f"({total}.0 GB)" in advice
    assert total <= 0.9 * available
    assert batch == 32 or 20 + 4 * 2 * batch > 0.9 * available


def test_what_is_enough_comes_first_and_what_is_not_says_so():
    lines = memory_advice(a_step(), 100 * 10**9, 1).splitlines()
    assert lines == [
        "What would help:",
        f"  batch_size: 16 and run.accum_grad_iters: 4, {longer(4)} (84.0 GB)",
        "  recompute (84.0 GB)",
        "  fewer bits (266.0 GB, not enough)",
    ]


def test_where_nothing_is_enough_by_itself_all_of_it_is():
    lines = memory_advice(a_step(), 20 * 10**9, 2).splitlines()
    assert lines[1] == (f"  batch_size: 1 and run.accum_grad_iters: 128, {longer(64)} (24.0 GB, not enough)")
    assert lines[-1] == (
        f"  all of this, with batch_size: 8 and run.accum_grad_iters: 16, {longer(8)} (18.0 GB)"
    )


def test_a_batch_that_is_no_power_of_two_is_divided_without_rest():
    step = MemoryEstimate(12, weights={}, fixed={}, per_sample={"kept": 10**9})
    advice = memory_advice(step, int(5.5e9), 1)
    assert "batch_size: 4 and run.accum_grad_iters: 3," in advice


def test_logits_grow_no_further_than_a_chunk():
    step = MemoryEstimate(8, {}, {}, per_sample={"logits": 10}, most={"logits": 30})
    assert [step.with_batch(batch).total for batch in (1, 2, 3, 4, 8)] == [10, 20, 30, 30, 30]


def test_what_a_container_may_have(tmp_path: Path):
    own = tmp_path / "cgroup"
    own.write_text("4:cpu,memory:/job/step\n2:cpuset:/\n")
    for place, limit in (
        ("memory/job/step", "9223372036854771712"),
        ("memory/job", "4000"),
        ("memory", "5000"),
    ):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "memory.limit_in_bytes").write_text(f"{limit}\n")
    assert min(_control_group_limits(tmp_path, own)) == 4000
    own.write_text("0::/job/step\n")
    for place, limit in (("job/step", "max"), ("job", "3000")):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "memory.max").write_text(f"{limit}\n")
    assert _control_group_limits(tmp_path, own) == [3000]
    assert _control_group_limits(tmp_path, tmp_path / "absent") == []


def test_processes_on_one_machine_share_its_memory(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = available_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory(torch.device("cpu")) == alone // 4
    assert alone > 10**8

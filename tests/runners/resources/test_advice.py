"""What is said when memory or disk runs out: facts about the run, and settings that are not set yet."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from minigpt4.common.errors import TrainingError
from minigpt4.common.formatting import format_bytes
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.resources import advice
from minigpt4.runners.resources.advice import memory_advice, out_of_memory_error
from minigpt4.runners.resources.memory import count_memory
from tests.support.families import save_model
from tests.support.golden import build_golden_model

RECOMPUTE, CACHE = "model.llm_grad_checkpoint: True", "cached features (minigpt4 cache-features)"


def tiny(**keys: Any) -> MiniGPTBase:
    return build_golden_model(llm_sanity_check=False, ckpt="", **keys)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("families") / "llama"
    save_model(path, "llama")
    return str(path)


@pytest.fixture
def fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "dtype_for", lambda *_: torch.bfloat16)


def settings_of(text: str) -> list[str]:
    """The beginnings of the advice's lines."""
    first, *lines = text.splitlines()
    assert first == "What would help, each by itself:"
    return [line.strip().split(",")[0].split(";")[0] for line in lines]


@pytest.mark.parametrize(("batch", "half", "times"), [(64, 32, 2), (15, 5, 3), (7, 1, 7)])
def test_memory_advice_divides_the_batch_without_rest(batch: int, half: int, times: int) -> None:
    first = memory_advice(tiny(), batch, accum_grad_iters=4).splitlines()[1]
    assert first.startswith(f"  batch_size: {half} and run.accum_grad_iters: {4 * times}; the same learning")
    assert f"{times} times run.iters_per_epoch and run.warmup_steps" in first
    assert "batch_size" not in memory_advice(tiny(), 1, accum_grad_iters=4)


def test_memory_advice_names_what_is_not_set_yet(llama: str, fast_bf16: None, monkeypatch) -> None:
    full = tiny(llama_model=llama, llm_precision="fp32")
    assert settings_of(memory_advice(full, 1, 1)) == [RECOMPUTE, "model.llm_precision: bf16", CACHE]
    assert format_bytes(2 * full.llama_model.num_parameters()) in memory_advice(full, 1, 1)
    half = tiny(llama_model=llama)
    half.llama_model.bfloat16()
    assert settings_of(memory_advice(half, 1, 1)) == [RECOMPUTE, "model.llm_precision: 8bit", CACHE]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert settings_of(memory_advice(half, 1, 1)) == [RECOMPUTE, "model.device_map: shard", CACHE]
    monkeypatch.setattr(half.language, "sharded", True)
    assert settings_of(memory_advice(half, 1, 1)) == [RECOMPUTE, CACHE]


def test_memory_advice_for_a_trained_language_model_leaves_its_weights_alone(llama: str) -> None:
    """They are float32, and can be neither quantised nor sharded."""
    model = tiny(llama_model=llama, llm_trainable="full")
    assert settings_of(memory_advice(model, 1, 1)) == [RECOMPUTE, CACHE]


def test_memory_advice_names_nothing_that_is_set_or_cannot_be(llama: str, fast_bf16: None) -> None:
    model = tiny(llama_model=llama, llm_grad_checkpoint=True, freeze_vit=False, llm_precision="fp32")
    assert settings_of(memory_advice(model, 1, 1)) == ["model.llm_precision: bf16"]


@pytest.fixture
def out_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], str]:
    monkeypatch.setattr(advice, "available_memory", lambda _: 24 * 10**9)

    def message(error: BaseException) -> str:
        made = out_of_memory_error(error, tiny(), 64, 1, torch.device("cuda", 0))
        assert isinstance(made, TrainingError)
        return str(made)

    return message


def test_out_of_memory_error_says_what_is_counted_and_what_would_help(out_of_memory) -> None:
    reason = "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of 23.6 GiB"
    message = out_of_memory(torch.OutOfMemoryError(reason))
    counted = format_bytes(count_memory(tiny(), 64, 1).total)
    assert message.startswith("cuda:0 ran out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.). ")
    assert f" {counted} of 24.0 GB can be counted" in message and "of 64 samples" in message
    assert "batch_size: 32 and run.accum_grad_iters: 2;" in message
    assert "GPU 0 has" not in message


def test_out_of_memory_error_names_the_kind_of_an_error_without_words(out_of_memory) -> None:
    assert out_of_memory(MemoryError()).startswith("cuda:0 ran out of memory (MemoryError).")

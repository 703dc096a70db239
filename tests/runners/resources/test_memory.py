"""Memory: what is counted equals what torch says, what a device has, and what a process has taken."""

from pathlib import Path

import pytest
import torch

from minigpt4.models.language_model import LanguageModel
from minigpt4.models.minigpt_base import MiniGPTBase
from minigpt4.runners.resources import memory
from minigpt4.runners.resources.memory import (
    _control_group_limits,
    available_memory,
    count_memory,
    peak_memory,
    reset_peak_memory,
    weight_bytes,
)
from tests.support.golden import build_golden_model, build_golden_v2

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> MiniGPTBase:
    return build_golden_model(llm_sanity_check=False, ckpt="", freeze_qformer=False)


def test_count_memory_equals_what_torch_holds(model):
    counted = count_memory(model, 2, 1)
    assert sum(counted.weights.values()) == sum(p.nbytes for p in model.parameters())
    assert set(counted.weights) == set(model.parameter_summary())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    image = torch.zeros(2, 3, model.image_size, model.image_size, dtype=torch.uint8)
    model({"image": image, "answer": ["a dog", "two"]})["loss"].backward()
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert counted.gradients == sum(gradient.nbytes for gradient in gradients)
    state = [value for values in optimizer.state.values() for value in values.values() if value.ndim]
    assert counted.optimizer_state == sum(value.nbytes for value in state)
    assert counted.images == image.nbytes
    assert counted.total == sum(counted.parts.values())


def test_count_memory_counts_each_batch_of_an_update_and_one_of_logits(model, monkeypatch):
    once, more = count_memory(model, 8, 1), count_memory(model, 8, 3)
    assert more.images == 3 * once.images == 3 * 8 * 3 * model.image_size**2
    vocabulary = model.llama_model.config.vocab_size
    assert more.logits == once.logits == 8 * model.max_txt_len * vocabulary * 12
    # Longer batches are divided.
    monkeypatch.setattr(memory, "LOGITS_AT_A_TIME", 1000)
    assert count_memory(model, 8, 1).logits == 12_000
    monkeypatch.setattr(model.llama_model.config, "final_logit_softcapping", 30.0, raising=False)
    assert count_memory(model, 8, 1).logits == 20_000


def test_count_memory_of_a_sharded_model_is_a_part_of_its_layers_and_two_whole(model, monkeypatch):
    whole = count_memory(model, 2, 1).weights["llama_model"]
    layer = sum(p.nbytes for p in model.llama_model.get_decoder().layers[0].parameters())
    monkeypatch.setattr(model.language, "sharded", True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    many = [model.llama_model.model.layers[0]] * 32
    monkeypatch.setattr(LanguageModel, "layers", many)
    shared = count_memory(model, 2, 1).weights["llama_model"]
    assert whole - shared == 32 * layer - 32 * layer // 4 - 2 * layer


def test_count_memory_of_an_adapter(model, monkeypatch):
    """Its gradients and optimizer state are float32; it stays whole where the layers are sharded."""
    adapted = build_golden_v2(ckpt=None, lora_r=8)
    projection = sum(p.nbytes for p in adapted.llama_proj.parameters())
    adapter = 2 * 2 * 8 * (64 + 64) * 4  # layers, targets, rank, inputs and outputs, bytes
    counted = count_memory(adapted, 2, 1)
    assert counted.gradients == counted.optimizer_state // 2 == projection + adapter
    bare = count_memory(build_golden_v2(ckpt=None, lora_r=0), 2, 1)
    assert counted.weights["llama_model"] - bare.weights["llama_model"] == adapter
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    for one in (adapted, model):
        monkeypatch.setattr(one.language, "sharded", True)
    many = [[one.llama_model.model.layers[0]] * 32 for one in (adapted, model)]
    saved = []
    for one, layers in zip((adapted, model), many, strict=True):
        monkeypatch.setattr(LanguageModel, "layers", layers)
        saved.append(memory.sharded_away(one))
    assert saved[0] == saved[1] > 0


def test_weight_bytes_of_quantised_weights_include_their_scales():
    library = pytest.importorskip("bitsandbytes", exc_type=ImportError)
    eight = library.nn.Linear8bitLt(64, 128, bias=False, has_fp16_weights=False)
    four = library.nn.Linear4bit(64, 128, bias=False, compress_statistics=False)
    try:
        eight.to("cpu")
        four.to("cpu")
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"bitsandbytes does not quantise on this CPU: {error}")
    assert weight_bytes(eight.weight) == 64 * 128 + 4 * 128
    assert weight_bytes(four.weight) == 64 * 128 // 2 + 4 * (64 * 128 // 64)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux has it")
def test_peak_memory_is_the_highest_since_the_reset() -> None:
    def peak_of(numbers: int) -> int:
        reset_peak_memory(CPU)
        before = peak_memory(CPU)
        torch.ones(numbers)
        return peak_memory(CPU) - before

    assert 3.8e8 < peak_of(100_000_000) < 4.5e8
    assert peak_of(1_000_000) < 1e8


def test_available_memory_is_what_a_container_may_have(tmp_path: Path):
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


def test_available_memory_of_a_machine_is_shared_by_its_processes(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = available_memory(CPU)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert available_memory(CPU) == alone // 4
    assert alone > 10**8

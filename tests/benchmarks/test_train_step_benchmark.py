"""benchmarks/train_step.py: its floors against counted products, and what it prints, at a tiny size."""

import json
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GemmaConfig, LlamaConfig

from benchmarks import random_model, train_step
from benchmarks.floors import Products, by_part, seconds_at_ceiling, seconds_of, step_products
from benchmarks.random_model import Size, build, random_batches

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
VIT = {"embed_dim": 88, "depth": 2, "num_heads": 2}
# Grouped heads, and a head width that does not follow from the width.
GEMMA = Size(
    GemmaConfig(**SIZES, num_key_value_heads=1, head_dim=32, vocab_size=640, tie_word_embeddings=True), 2, VIT
)
LLAMA = Size(LlamaConfig(**SIZES, vocab_size=640), 2, VIT)
V2 = Size(LlamaConfig(**SIZES, vocab_size=640), 2, VIT, v2=True, lora_r=8)
CPU = torch.device("cpu")


@pytest.mark.parametrize("size", [LLAMA, GEMMA, V2], ids=["llama", "gemma", "v2"])
def test_the_floors_are_what_a_step_computes(size: Size, tmp_path: Path) -> None:
    """Two ways to one number: written down from the sizes, and counted while a step runs."""
    keys = {"vit_precision": "fp32", "llm_precision": "fp32", "attn_implementation": "eager"}
    model = build(size, tmp_path / "model", CPU, **keys).train()
    samples = model.prepare(next(random_batches(2, size)))
    tokens = samples.tokens
    with FlopCounterMode(display=False) as counter:
        model(samples)["loss"].backward()
    products = step_products(size, 2, tokens.ids.shape[1], tokens.targets)
    assert sum(p.flops for p in products) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    # The language model's own weights are frozen: backward takes no more than forward, but for attention,
    # whose two products have four gradients.
    parts = by_part(products, lambda p: p.flops)
    assert parts["language model"] < parts["language model, back"] < 1.6 * parts["language model"]
    assert parts["head"] == parts["head, back"]


def test_random_weights_are_the_same_in_every_precision(tmp_path: Path) -> None:
    models = [
        build(LLAMA, tmp_path / precision, CPU, vit_precision=precision, llm_precision=precision)
        for precision in ("fp32", "bf16")
    ]
    samples = next(random_batches(2, LLAMA))
    with torch.no_grad():
        losses = [model(samples)["loss"].item() for model in models]
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
    assert losses[0] == pytest.approx(torch.tensor(640.0).log().item(), abs=0.3)  # it knows nothing
    assert sum(p.stat().st_blocks * 512 for p in tmp_path.rglob("model.safetensors")) < 20_000


def test_products_and_their_time() -> None:
    product = Products("part", m=2, k=3, n=5, times=7, batch=4)
    assert product.flops == 2 * 2 * 3 * 5 * 7 * 4
    assert product.bytes == 2 * (6 + 15 + 10) * 7 * 4
    alone = seconds_of(product, CPU)
    assert 0 < alone < 1
    assert seconds_at_ceiling([product], {product: alone}) == 7 * alone


@pytest.mark.parametrize("busy", [range(30, 10_000), range(250)], ids=["at-the-end", "at-first"])
def test_shares_are_right_on_a_machine_that_is_busy_for_a_while(monkeypatch, busy: range) -> None:
    """Then everything takes eight times as long: with all steps before all products, a share would be 4."""
    now = 0

    def work(seconds: int) -> int:
        nonlocal now
        taken = seconds * (8 if now in busy else 1)
        now += taken
        return taken

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr("benchmarks.floors.seconds_of", lambda product, _: work(product.m))
    products = [Products("encoder", 1, 1, 1), Products("head", 1, 1, 1)]
    steps = {"pixels": lambda: work(4), "cached": lambda: work(2)}
    args = Namespace(turns=5, batch=6, size="small")
    images_per_second, alone = train_step.take_turns(steps, products, args, CPU)
    tokens = Namespace(attention_mask=torch.ones(6, 9))
    figures = train_step.floors(products, alone, 6, tokens, images_per_second)
    assert figures["matmul_fraction"] == figures["cached_matmul_fraction"] == 0.5
    assert figures["floor_seconds_per_step"] == 2 and figures["cached_floor_seconds_per_step"] == 1


def test_what_it_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(random_model.SIZES, "small", LLAMA)
    monkeypatch.setattr(train_step, "peak_in_new_process", {"pixels": 1.5, "baseline": 2.5}.get)
    path = tmp_path / "new" / "figures.json"
    words = f"train_step.py --size small --turns 2 --device cpu --no-compile --json {path}"
    profile = tmp_path / "profile.txt"
    monkeypatch.setattr("sys.argv", [*words.split(), "--profile", str(profile)])
    train_step.main()
    figures = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out[-len(path.read_text()) :]) == figures
    assert figures["batch"] == 2 and figures["compiled"] is False
    assert figures["peak_memory_gb"] == 1.5 and figures["baseline_peak_memory_gb"] == 2.5
    for way in ("", "cached_"):
        ratio = figures[f"{way}images_per_second"] / figures["baseline_images_per_second"]
        assert figures[f"{way}speedup"] == pytest.approx(ratio, rel=1e-2)
        floor = figures[f"{way}floor_seconds_per_step"] * figures[f"{way}images_per_second"] / 2
        assert floor * 0.99 <= figures[f"{way}matmul_fraction"] <= 1
    assert figures["cached_floor_seconds_per_step"] < figures["floor_seconds_per_step"]
    assert figures["tokens_per_second"] == pytest.approx(figures["images_per_second"] * 47.5, rel=0.15)
    assert "aten::" in profile.read_text()


def test_the_peak_is_taken_of_the_steps(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(random_model.SIZES, "small", LLAMA)
    words = "train_step.py --size small --device cpu --no-compile --peak-of pixels"
    monkeypatch.setattr("sys.argv", words.split())
    train_step.main()
    assert 0.3 < float(capsys.readouterr().out.splitlines()[-1]) < 10

"""`model.compile` and `model.llm_grad_checkpoint`: the same losses and gradients, in less time or memory."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from minigpt4.common.errors import ConfigError
from minigpt4.models import execution, language_model
from minigpt4.models.execution import layers_of
from tests.support.families import save_model
from tests.support.golden import build_golden_model, can_compile

PICTURES = torch.arange(3 * 3 * 56 * 56).remainder(251).to(torch.uint8).view(3, 3, 56, 56)
# From 3 to 22 tokens an answer.
CAPTIONS = [
    ["a dog"] * 3,
    ["a dog runs in the park"] * 3,
    ["a"] * 3,
    ["a house", "two cars and a red dog", "b"],
]


def tiny_keys(family: str, folder: Path) -> dict[str, Any]:
    """Of a model whose language model is of that family."""
    path = str(save_model(folder / "llm", family))
    return {"llama_model": path, "llm_sanity_check": False, "end_sym": None, "ckpt": None}


def loss_and_gradient(model: torch.nn.Module, answers: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    loss = model({"image": PICTURES, "answer": answers})["loss"]
    (gradient,) = torch.autograd.grad(loss, [model.llama_proj.weight])
    return loss.detach(), gradient


@pytest.fixture(scope="module")
def eager() -> torch.nn.Module:
    return build_golden_model(llm_sanity_check=False).train()


@pytest.fixture(scope="module", params=["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def compiled(request) -> torch.nn.Module:
    """By torch's default, and without its slowest part: the graphs are traced, and run eagerly."""
    torch.compiler.reset()
    counters.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", partial(torch.compile, backend=request.param))
        return build_golden_model(llm_sanity_check=False, compile=True).train()


@can_compile
def test_compiled_losses_and_gradients_are_the_eager_ones(eager, compiled, golden_io) -> None:
    graphs = []
    for answers in CAPTIONS:
        loss, gradient = loss_and_gradient(compiled, answers)
        expected_loss, expected_gradient = loss_and_gradient(eager, answers)
        torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-5)
        graphs.append(counters["stats"]["unique_graphs"])
    # The encoder's block, the Q-Former's layers with and without cross attention, the language model's: the
    # first step compiled them for captions of any length.
    assert graphs == [4, 4, 4, 4]
    assert not counters["graph_break"]
    golden = compiled({"image": golden_io["image"], "answer": golden_io["captions"]})["loss"]
    torch.testing.assert_close(golden.detach(), golden_io["train_loss"], rtol=0, atol=1e-4)


@can_compile
def test_a_compiled_model_has_the_same_names_and_answers(eager, compiled) -> None:
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    compiled({"image": PICTURES, "answer": CAPTIONS[0]})
    before = counters["stats"]["unique_graphs"]
    prompts = ["<ImageHere> a"] * 3
    assert compiled.generate(PICTURES, prompts) == eager.generate(PICTURES, prompts)
    assert counters["stats"]["unique_graphs"] == before  # nothing was compiled for a reply


@can_compile
@pytest.mark.slow
def test_layers_of_two_kinds_are_compiled_and_recomputed_at_once(tmp_path) -> None:
    """Gemma-2: every second layer has a window, and scores and logits are capped."""
    keys = tiny_keys("gemma2", tmp_path)
    losses = []
    for more in ({}, {"compile": True, "llm_grad_checkpoint": True}):
        torch.manual_seed(0)
        model = build_golden_model(**keys, **more).train()
        losses.append([loss_and_gradient(model, answers) for answers in CAPTIONS[:2]])
    for (loss, gradient), (expected_loss, expected_gradient) in zip(*losses, strict=True):
        torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-5)
        torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-5)


def test_without_a_compiler_it_is_said_at_the_start(monkeypatch) -> None:
    monkeypatch.setattr(execution.shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match=r"model.compile: True needs a C\+\+ compiler"):
        build_golden_model(compile=True)


def kept_for_the_backward_pass(model: torch.nn.Module, answers: list[str]) -> int:
    """Bytes, without parameters, which are there anyway, and without what is kept twice."""
    there = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model({"image": PICTURES, "answer": answers})["loss"].backward()
    return sum(kept.values())


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2"])
def test_recomputing_keeps_less_and_changes_nothing(family: str, tmp_path) -> None:
    keys = tiny_keys(family, tmp_path)
    results, kept = [], []
    for use in (False, True):
        torch.manual_seed(0)
        model = build_golden_model(**keys, llm_grad_checkpoint=use).train()
        assert not any(layer.training for layer in layers_of(model.llama_model))
        results.append(loss_and_gradient(model, CAPTIONS[3]))
        kept.append(kept_for_the_backward_pass(model, CAPTIONS[3]))
        assert model.eval().generate(PICTURES, ["<ImageHere>"] * 3) is not None
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)
    assert kept[1] < 0.5 * kept[0]


def test_layers_that_are_not_known_cannot_be_recomputed(golden_model, monkeypatch) -> None:
    monkeypatch.setattr(language_model, "layers_of", lambda _llm: [])
    with pytest.raises(ConfigError, match=r"model.llm_grad_checkpoint: .* the layers of a llama"):
        golden_model.language.recompute_layers()

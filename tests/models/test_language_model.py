"""A language model that is frozen, and one that is trained with the rest."""

from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.conversation.chat import Chat
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.llm_loading import load_language_model
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from tests.support import GOLDEN
from tests.support.families import save_model
from tests.support.golden import build_golden_model, can_compile

CPU = torch.device("cpu")
PICTURES = torch.arange(2 * 3 * 56 * 56).remainder(251).to(torch.uint8).view(2, 3, 56, 56)
SAMPLES = {"image": PICTURES, "answer": ["a dog", "two cars and a house"]}
FULL = {"llm_trainable": "full", "llm_sanity_check": False}


def load(trainable: str, **how: Any) -> LanguageModel:
    return load_language_model(GOLDEN / "llm", device=CPU, trainable=trainable, **how)


def text_batch(language: LanguageModel) -> TokenBatch:
    """Two dialogues of different lengths, without images."""
    backbone = language.backbone
    encoder = PromptEncoder(language.tokenizer, backbone.bos_id, 1, backbone.template, 32, 100)
    return encoder.encode([Dialogue.prompted("what is it?", "a dog"), Dialogue.prompted("and", "two cars")])


def gradients(language: LanguageModel) -> dict[str, torch.Tensor]:
    tokens = text_batch(language)
    language.token_losses(language.embed(tokens.ids), tokens).mean().backward()
    return {name: p.grad for name, p in language.model.named_parameters() if p.grad is not None}


def test_frozen_language_model_stays_as_it_is() -> None:
    language = load("frozen", precision="fp32").train()
    assert language.frozen
    assert not any(module.training for module in language.modules())
    assert not any(parameter.requires_grad for parameter in language.parameters())


def test_full_language_model_is_trained_in_float32() -> None:
    language = load("full", precision="bf16").train()
    assert not language.frozen
    assert all(module.training for module in language.modules())
    assert {p.dtype for p in language.parameters() if p.requires_grad} == {torch.float32}
    assert not any(module.training for module in language.eval().modules())


@pytest.mark.parametrize("recompute", [False, True])
def test_full_language_models_gradient_is_the_librarys(recompute: bool) -> None:
    """The second way: the library's own loss over all logits, and its backward pass."""
    language = load("full").train()
    if recompute:
        language.recompute_layers()
    ours = gradients(language)
    tokens = text_batch(language)
    labels = torch.full((tokens.ids.numel() + 1,), -100)
    labels[tokens.target_index + 1] = tokens.target_ids
    reference = load("full").model.train()
    reference(
        input_ids=tokens.ids, attention_mask=tokens.attention_mask, labels=labels[:-1].view(tokens.ids.shape)
    ).loss.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=1e-4, atol=1e-6)


@can_compile
def test_full_language_model_compiled_has_the_same_gradient() -> None:
    plain, compiled = load("full").train(), load("full").train()
    torch.compiler.reset()
    compiled.compile_layers()
    expected = gradients(plain)
    for name, gradient in gradients(compiled).items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5)


def test_recompute_puts_dropouts_random_state_back(tmp_path: Path) -> None:
    """What is dropped out in the forward pass is dropped out in the recomputed one: the same gradient."""
    folder = save_model(tmp_path / "llm", "llama", attention_dropout=0.5)
    results = []
    for recompute in (False, True):
        language = load_language_model(folder, device=CPU, trainable="full", attention="eager").train()
        if recompute:
            language.recompute_layers()
        torch.manual_seed(0)
        results.append(gradients(language))
    for name, gradient in results[0].items():
        torch.testing.assert_close(gradient, results[1][name], rtol=0, atol=1e-6)


def test_fingerprint_is_that_of_the_embeddings_it_came_with() -> None:
    language, other = load("full"), load("frozen", precision="fp32")
    with torch.no_grad():
        language.model.get_input_embeddings().weight.add_(1)
    assert language.fingerprint == load("full").fingerprint == other.fingerprint
    assert language.fingerprint != language._take_fingerprint()


def test_full_model_trains_saves_and_loads_the_language_model(tmp_path: Path) -> None:
    model = build_golden_model(**FULL).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        losses.append(model(SAMPLES)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]

    saved = model.trainable_state_dict()
    own = {f"llama_model.{name}" for name, _ in model.llama_model.named_parameters()}
    assert saved.keys() == own | {"llama_proj.weight", "llama_proj.bias"}
    before = build_golden_model(**FULL)
    assert not torch.equal(
        saved["llama_model.model.embed_tokens.weight"], before.llama_model.model.embed_tokens.weight
    )
    path = tmp_path / "c.pth"
    torch.save({"model": saved, "meta": model.checkpoint_meta()}, path)
    again = build_golden_model(**FULL, ckpt=str(path)).eval()
    with torch.no_grad():
        assert torch.equal(again(SAMPLES)["loss"], model.eval()(SAMPLES)["loss"])
    summary = model.parameter_summary()["llama_model"]
    assert summary["total"] == summary["trainable"] == sum(p.numel() for p in model.llama_model.parameters())


def test_full_model_begins_with_a_projection_alone_but_goes_on_with_all_of_it(tmp_path: Path) -> None:
    """Stage 1's checkpoint holds no language model: its own files do. A run of its own must be whole."""
    model = build_golden_model(**FULL)  # with the recorded checkpoint, of the projection alone
    projection = {key: value for key, value in model.trainable_state_dict().items() if "proj." in key[:11]}
    torch.save({"model": projection}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"the key 'llama_model\..*' and \d+ more is missing"):
        model.load_checkpoint(tmp_path / "c.pth")


def test_full_cannot_be_spread_over_the_ranks_of_a_launch(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"model\.device_map: shard .* model\.llm_trainable is full"):
        load("full")
    assert load("frozen", precision="fp32").sharded


@pytest.mark.parametrize("allowed", [True, False])
def test_generate_runs_without_cudnn_attention(golden_model, monkeypatch, allowed: bool) -> None:
    """Called by the model and by a chat; what was allowed before is allowed after it, also if it raises."""
    before, seen = torch.backends.cuda.cudnn_sdp_enabled(), []

    def fail(**_: Any) -> None:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        raise RuntimeError("out of memory")

    monkeypatch.setattr(golden_model.llama_model, "generate", fail)
    chat = Chat(golden_model, lambda picture: picture)
    try:
        torch.backends.cuda.enable_cudnn_sdp(allowed)
        for generate in (lambda: golden_model.generate(None, ["hello"]), chat.model_generate):
            with pytest.raises(RuntimeError, match="out of memory"):
                generate()
            assert torch.backends.cuda.cudnn_sdp_enabled() is allowed
        monkeypatch.undo()
        golden_model.generate(None, ["hello"], max_new_tokens=2)
        assert torch.backends.cuda.cudnn_sdp_enabled() is allowed
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert seen == [False, False]

"""LoRA beside a frozen language model; the second way to compute it is peft's own wrapper."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from minigpt4.common.errors import ConfigError
from minigpt4.models.language_model import LanguageModel
from minigpt4.models.library_check import check_gradient, check_language_model
from minigpt4.models.llm_loading import load_language_model
from minigpt4.models.lora import Lora, linear_names, lora_layers
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.encoder import PromptEncoder, TokenBatch
from tests.support import GOLDEN
from tests.support.causal_families import build_small
from tests.support.gguf import write_gguf

CPU = torch.device("cpu")


def load(lora: Lora | None = None, source: Path = GOLDEN / "llm", **how: Any) -> LanguageModel:
    how = {"precision": "fp32"} | how
    return load_language_model(source, device=CPU, lora=lora or Lora(4, 8, 0.0), **how)


def text_batch(language: LanguageModel) -> TokenBatch:
    backbone = language.backbone
    encoder = PromptEncoder(language.tokenizer, backbone.bos_id, 1, backbone.template, 32, 100)
    return encoder.encode([Dialogue.prompted("what is it?", "a dog"), Dialogue.prompted("and", "two cars")])


def scramble(model: torch.nn.Module) -> None:
    """Give an adapter seeded weights, so that it changes something, whatever it is called."""
    adapters = [(n.replace("base_model.model.", ""), p) for n, p in model.named_parameters() if "lora_" in n]
    for seed, (_, parameter) in enumerate(sorted(adapters, key=lambda pair: pair[0])):
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        parameter.data.copy_(0.1 * noise)


def losses(language: LanguageModel) -> torch.Tensor:
    tokens = text_batch(language)
    return language.token_losses(language.embed(tokens.ids), tokens)


@pytest.mark.parametrize("recompute", [False, True])
def test_loss_and_gradient_are_those_of_pefts_wrapper(recompute: bool) -> None:
    language = load().train()
    scramble(language.model)
    if recompute:
        language.recompute_layers()
    loss = losses(language).mean()
    loss.backward()
    tokens = text_batch(language)
    labels = torch.full((tokens.ids.numel() + 1,), -100)
    labels[tokens.target_index + 1] = tokens.target_ids
    library = AutoModelForCausalLM.from_pretrained(GOLDEN / "llm", dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    wrapped: Any = get_peft_model(library, config)
    scramble(wrapped)
    theirs = wrapped(
        input_ids=tokens.ids, attention_mask=tokens.attention_mask, labels=labels[:-1].view(tokens.ids.shape)
    ).loss
    theirs.backward()
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-5)
    gradients = {n: p.grad for n, p in language.model.named_parameters() if p.grad is not None}
    expected = {
        n.removeprefix("base_model.model."): p.grad
        for n, p in wrapped.named_parameters()
        if p.grad is not None
    }
    assert gradients.keys() == expected.keys() and len(gradients) == 8
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_an_untrained_adapter_changes_nothing() -> None:
    bare = load_language_model(GOLDEN / "llm", device=CPU, precision="fp32")
    assert torch.equal(losses(load().eval()), losses(bare))


def test_weights_stay_frozen_in_their_precision_and_only_the_adapter_drops_out() -> None:
    language = load(Lora(4, 8, 0.5), precision="bf16").train()
    base = {p.dtype for n, p in language.model.named_parameters() if "lora_" not in n}
    trained = {n: p for n, p in language.model.named_parameters() if p.requires_grad}
    assert language.frozen and base == {language.model.dtype} and len(trained) == 8
    assert {p.dtype for p in trained.values()} == {torch.float32} and all("lora_" in n for n in trained)
    training = {name for name, module in language.model.named_modules() if module.training}
    assert training and all(".lora_dropout" in name for name in training)
    scramble(language.model)
    assert not torch.equal(losses(language), losses(language))
    language.eval()
    assert torch.equal(losses(language), losses(language))


@pytest.mark.parametrize(
    ("targets", "adapted"), [(("q_proj",), 2), (("self_attn.o_proj", "down_proj"), 4), ("all-linear", 14)]
)
def test_targets_are_honoured(targets: Any, adapted: int) -> None:
    language = load(Lora(2, targets=targets))
    layers = list(lora_layers(language.model))
    assert len(layers) == adapted and {layer.r["default"] for layer in layers} == {2}
    assert not language.trains_head


def test_an_adapted_head_gets_a_gradient() -> None:
    language = load(Lora(2, dropout=0.0, targets=("lm_head",))).train()
    assert language.trains_head
    losses(language).mean().backward()
    head: Any = language.model.get_output_embeddings()
    assert head.lora_B["default"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("kind", "targets", "linear"),
    [
        ("gpt2", ("c_attn",), "c_attn, c_fc, c_proj, lm_head"),
        ("falcon", ("query_key_value",), "dense, dense_4h_to_h, dense_h_to_4h, lm_head, query_key_value"),
    ],
)
def test_families_with_other_names(kind: str, targets: tuple[str, ...], linear: str) -> None:
    language = build_small(kind)
    with pytest.raises(ConfigError) as error:
        Lora(2).add_to(language.model)
    facts = ("model.lora_target_modules", "'q_proj'", kind, linear, "all-linear")
    assert all(fact in str(error.value) for fact in facts)
    assert ", ".join(linear_names(language.model)) == linear
    for lora in (Lora(2, targets=targets), Lora(2, targets="all-linear")):
        one = build_small(kind)
        adapted = LanguageModel(one.model, one.tokenizer, one.backbone, lora=lora).eval()
        scramble(adapted.model)
        check_language_model(adapted, "it", english=False)
        check_gradient(adapted)


@pytest.mark.parametrize("kind", ["mixtral", "llama4_text"])
def test_all_linear_leaves_experts_and_routers_alone(kind: str) -> None:
    small = build_small(kind)
    lora = Lora(2, targets="all-linear")
    adapted = LanguageModel(small.model, small.tokenizer, small.backbone, lora=lora).eval()
    scramble(adapted.model)
    names = {name for name, layer in adapted.model.named_modules() if layer in [*lora_layers(adapted.model)]}
    assert names and not any("router" in name or name.endswith("lm_head") for name in names)
    check_language_model(adapted, "it", english=False)
    check_gradient(adapted)


def test_an_adapter_beside_a_gguf_file_is_that_beside_the_folder(tmp_path) -> None:
    found = []
    for source in (GOLDEN / "llm", write_gguf(tmp_path / "llm.gguf")):
        language = load(source=source).eval()
        scramble(language.model)
        found.append(losses(language))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("target", ["embed_tokens", "layers", "self_attn", "q_prj"])
def test_a_target_that_is_not_linear_is_refused(target: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.lora_target_modules: .*q_proj"):
        load(Lora(2, targets=(target,)))

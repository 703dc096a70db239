"""Checkpoints of the original's own runner and of the Gemma fork, and what the fork computed with its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import CheckpointError
from minigpt4.common.registry import registry
from minigpt4.weights.checkpoint import save_checkpoint
from minigpt4.weights.resolver import read_tensors
from tests.support import GOLDEN, ROOT

ORIGINAL, FORK = GOLDEN / "original_checkpoints", GOLDEN / "fork"
TINY = ROOT / "minigpt4" / "assets" / "tiny"
EXACT = {"vit_precision": "fp32", "llm_precision": "fp32", "image_size": 56, "llm_sanity_check": False}


def build(**section: Any) -> torch.nn.Module:
    section = {"arch": "minigpt4", **EXACT} | section
    return registry.get_model_class(section["arch"]).from_config(section, device="cpu")


TYPES = {
    "vicuna": {"model_type": "pretrain_vicuna0"},
    "llama2": {"model_type": "pretrain_llama2"},
    "v2": {"arch": "minigpt_v2", "model_type": "pretrain", "lora_r": 4, "lora_alpha": 8},
}


def build_original(name: str, ckpt: Path | None = None, **section: Any) -> torch.nn.Module:
    """The tiny parts with which the original's checkpoints were made."""
    qformer = {
        "q_former_model": str(ORIGINAL / "qf32.pth"),
        "q_former_kwargs": {
            **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
            **{"intermediate_size": 64, "cross_attention_frequency": 2},
        },
    }
    return build(
        **TYPES[name] | section,
        vit_weights=str(ORIGINAL / "eva32.pth"),
        vit_kwargs={"patch_size": 14, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
        llama_model=str(GOLDEN / "llm"),
        ckpt=str(ckpt or ORIGINAL / f"{name}.pth"),
        **(qformer if name == "vicuna" else {}),
    )


@pytest.mark.parametrize(
    ("name", "passed_over"),
    [
        ("vicuna", "rotary_emb.inv_freq (2), embeddings.position_ids (1)"),
        ("llama2", "rotary_emb.inv_freq (2)"),
        ("v2", "rotary_emb.inv_freq (2)"),
    ],
)
def test_buffers_that_the_originals_runner_saves_are_passed_over(name, passed_over, caplog) -> None:
    caplog.set_level("INFO")
    model = build_original(name)
    saved = read_tensors(ORIGINAL / f"{name}.pth")["model"]
    own = model.trainable_state_dict()
    assert own.keys() == {key for key in saved if not key.endswith(("inv_freq", "position_ids"))}
    assert all(torch.equal(value, saved[key]) for key, value in own.items())
    path = ORIGINAL / f"{name}.pth"
    line = f"{path}: passed over what follows from the architecture: {passed_over}"
    assert [one for one in caplog.messages if "passed over" in one] == [line]


@pytest.mark.parametrize(
    "key",
    [
        "llama_model.model.layers.0.self_attn.inv_freq",
        "llama_model.lm_head.weight.inv_freq",
        "visual_encoder.rotary_emb.inv_freq",
        "Qformer.bert.embeddings.position_embeddings.weight",
        "llama_projection.weight",
    ],
)
def test_any_other_key_is_still_an_error(tmp_path, key) -> None:
    content = read_tensors(ORIGINAL / "vicuna.pth")
    content["model"][key] = torch.zeros(2)
    save_checkpoint(content, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=f"unexpected key {key!r}"):
        build_original("vicuna", tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("section", "facts"),
    [
        (TYPES["llama2"], "lora_r: 4 lora_alpha: 8 lora_target_modules: q_proj, v_proj"),
        ({"lora_r": 8}, "model.lora_r 4 8"),
        ({"lora_alpha": 16}, "model.lora_alpha 8 16"),
        ({"lora_target_modules": ["q_proj"]}, "4 layers lora_target_modules q_proj, v_proj 2: [q_proj]"),
        ({"lora_target_modules": ["q_proj", "o_proj"]}, "q_proj, v_proj o_proj, q_proj"),
    ],
)
def test_an_adapter_that_does_not_fit_names_the_keys(section, facts) -> None:
    section = {"arch": "minigpt4", "lora_r": 0} | section if "model_type" in section else section
    with pytest.raises(CheckpointError) as error:
        build_original("v2", **section)
    assert all(fact in str(error.value) for fact in ["v2.pth", *facts.split()])


def test_an_adapters_keys_may_be_todays_and_none_may_lack(tmp_path, caplog) -> None:
    content = read_tensors(ORIGINAL / "v2.pth")
    saved = dict(content["model"])
    content["model"] = {
        key.replace(".weight", ".default.weight") if "lora_" in key else key: value
        for key, value in saved.items()
    }
    save_checkpoint(content, tmp_path / "new.pth")
    own = build_original("v2", tmp_path / "new.pth").trainable_state_dict()
    assert all(torch.equal(own[key], value) for key, value in saved.items() if "lora_" in key)
    key = next(key for key in content["model"] if "lora_B" in key)
    content["model"].pop(key)
    save_checkpoint(content, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"less\.pth: the key '.*lora_B\.weight' is missing"):
        build_original("v2", tmp_path / "less.pth")
    # A projection alone is a beginning.
    content["model"] = {key: value for key, value in saved.items() if key.startswith("llama_proj")}
    save_checkpoint(content, tmp_path / "projection.pth")
    model = build_original("v2", tmp_path / "projection.pth")
    assert torch.equal(model.llama_proj.bias, saved["llama_proj.bias"])
    assert any("no LoRA adapter" in line for line in caplog.messages)


@pytest.fixture(scope="module")
def gemma() -> Path:
    """The tiny Gemma that the fork was run with."""
    return FORK / "gemma"


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return read_tensors(FORK / "record.pt")


def build_fork(gemma: Path, **section: Any) -> torch.nn.Module:
    """In the fork's own keys."""
    return build(
        model_type="pretrain_gemma_noqformer",
        vit_weights=str(TINY / "eva_vit_g.pth"),
        vit_kwargs={"patch_size": 7, "embed_dim": 128, "depth": 4, "num_heads": 4, "mlp_ratio": 3.0},
        llm_backbone=str(gemma),
        **{"llm_type": "gemma", "ckpt": str(FORK / "checkpoint.pth"), "end_sym": "\n"} | section,
    )


@pytest.fixture(scope="module")
def model(gemma) -> torch.nn.Module:
    return build_fork(gemma, ckpt_embedding_convention="table_row").eval()


@torch.no_grad()
def test_the_forks_loss_and_image_embeddings(model, record) -> None:
    loss = model({"image": record["images"], "answer": record["captions"]})["loss"]
    assert record["loss_end"].item() == pytest.approx(2.02232, abs=1e-5)
    assert loss.item() == pytest.approx(record["loss_end"].item(), abs=1e-4)
    embeds, mask = model.encode_img(record["images"])
    assert mask.shape == (3, 16)
    torch.testing.assert_close(embeds / 128**0.5, record["img_embeds"], rtol=0, atol=1e-5)


def test_the_forks_gradient_of_the_projection(gemma, record) -> None:
    """Its projection was in the table's scale, so its gradient is the factor's times ours."""
    model, factor = build_fork(gemma, ckpt=None), 128**0.5
    with torch.no_grad():
        model.llama_proj.weight.copy_(record["w0"] * factor)
        model.llama_proj.bias.copy_(record["b0"] * factor)
    loss = model({"image": record["images"], "answer": record["captions"]})["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(record["losses"][0], abs=1e-4)
    torch.testing.assert_close(model.llama_proj.weight.grad * factor, record["grad_w"], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_forks_greedy_replies(model, record) -> None:
    embeds, _ = model.encode_img(record["images"][:1])
    for prompt, (text, ids) in zip(record["prompts"], record["answers"], strict=False):
        inputs = model.get_context_emb(prompt, [embeds])
        mask = torch.ones(inputs.shape[:2], dtype=torch.long)
        arguments = {"inputs_embeds": inputs, "attention_mask": mask, "do_sample": False}
        assert model.llama_model.generate(**arguments, max_new_tokens=12)[0].tolist() == ids
        assert model.generate(record["images"][:1], [prompt], max_new_tokens=12) == [text]


def test_gemmas_turn_ends_a_reply_under_the_forks_end_symbol(gemma, record, caplog) -> None:
    """Its generation_config names `<eos>` 1 alone, its eval YAML `</s>`; `<end_of_turn>` is 5."""
    model = build_fork(
        gemma,
        ckpt_embedding_convention="table_row",
        end_sym="</s>",
        prompt_template="[INST] {} [/INST] ",
    )
    assert {1, 5} <= {*model.stop_ids}
    prompt = record["prompts"][0]
    assert model.generate(record["images"][:1], [prompt], max_new_tokens=12) == ["a large brown circle"]
    (warning,) = (one for one in caplog.messages if "prompt_template" in one)
    assert "'[INST]...[/INST]'" in warning and "'<start_of_turn>user...<end_of_turn>" in warning


def test_a_gemma_checkpoint_must_say_its_convention(gemma) -> None:
    with pytest.raises(CheckpointError, match=r"please set model\.ckpt_embedding_convention to table_row if"):
        build_fork(gemma)
    # Whatever family its turns are said to be of.
    with pytest.raises(CheckpointError, match=r"please set model\.ckpt_embedding_convention to table_row if"):
        build_fork(gemma, llm_type="plain")
    table_row, first_layer_input = (
        build_fork(gemma, llm_type="plain", ckpt_embedding_convention=convention).llama_proj.weight
        for convention in ("table_row", "first_layer_input")
    )
    torch.testing.assert_close(table_row, first_layer_input * 128**0.5)


def test_a_tied_head_must_be_that_of_the_language_model(gemma, tmp_path) -> None:
    content = read_tensors(FORK / "checkpoint.pth")
    head = content["model"]["llm_model.lm_head.weight"]
    said: dict[str, Any] = {"ckpt": str(tmp_path / "c.pth"), "ckpt_embedding_convention": "table_row"}
    for other in (head.flip(0), head[:-1]):
        content["model"]["llm_model.lm_head.weight"] = other
        save_checkpoint(content, tmp_path / "c.pth")
        with pytest.raises(CheckpointError, match=r"another language model: its llama_model\.lm_head"):
            build_fork(gemma, **said)
        assert build_fork(gemma, **said, ckpt_allow_mismatch=True)
    # Other code may have saved it in 16 bits.
    content["model"]["llm_model.lm_head.weight"] = head.half()
    save_checkpoint(content, tmp_path / "c.pth")
    assert build_fork(gemma, **said)

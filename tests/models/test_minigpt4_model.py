"""The model's joints: what is frozen, what is computed, and that a batch is what its members are."""

import pytest
import torch

from minigpt4.common.device import has_fast_bf16
from minigpt4.common.errors import ConfigError
from minigpt4.common.registry import registry
from tests.support.golden import build_golden_model

UINT8 = torch.randint(0, 256, (3, 3, 56, 56), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def modes(model: torch.nn.Module, parts: tuple[str, ...]) -> dict[str, bool]:
    """Whether each part trains, all of its modules alike."""
    found = {part: {module.training for module in getattr(model, part).modules()} for part in parts}
    return {part: mode.pop() for part, mode in found.items() if len(mode) == 1}


def test_only_the_projection_is_trained_and_frozen_parts_stay_in_eval_mode() -> None:
    model = build_golden_model()
    model.train()
    assert list(model.trainable_state_dict()) == ["llama_proj.weight", "llama_proj.bias"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "projection.weight",
        "projection.bias",
    ]
    parts = ("visual_encoder", "ln_vision", "Qformer", "llama_model", "llama_proj")
    assert modes(model, parts) == dict.fromkeys(parts, False) | {"llama_proj": True}


def test_logits_are_built_for_targets_only(golden_model, golden_io) -> None:
    rows = []
    head = golden_model.llama_model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _m, args, _out: rows.append(args[0].flatten(0, -2).shape))
    try:
        _, tokens = golden_model.token_losses({"image": golden_io["image"], "answer": golden_io["captions"]})
    finally:
        handle.remove()
    assert rows == [(len(tokens.target_ids), 64)]
    assert len(tokens.target_ids) == 36 < tokens.ids.numel() == 66


def test_loss_equals_the_one_over_all_logits(golden_model, golden_io) -> None:
    """The second way: the library's own loss over every position, labels -100 where there is no target."""
    samples = {"image": golden_io["image"], "answer": golden_io["captions"]}
    losses, tokens = golden_model.token_losses(samples)
    labels = torch.full((tokens.ids.numel() + 1,), -100)
    labels[tokens.target_index + 1] = tokens.target_ids
    embeds = golden_model.embed(tokens, golden_model.encode_img(golden_io["image"])[0])
    whole = golden_model.llama_model(
        inputs_embeds=embeds,
        attention_mask=tokens.attention_mask,
        labels=labels[:-1].view(tokens.ids.shape),
    )
    torch.testing.assert_close(losses.mean(), whole.loss, rtol=1e-5, atol=1e-5)


def test_uint8_pixels_are_normalised_like_the_processor_does(golden_model) -> None:
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        ours, _ = golden_model.encode_img(UINT8)
        theirs, _ = golden_model.encode_img((UINT8 / 255 - mean) / std)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (golden_model.to_pixels((UINT8[0] / 255 - mean) / std) == UINT8[0].permute(1, 2, 0).numpy()).all()


def test_a_batch_says_what_its_members_say_one_by_one(golden_model) -> None:
    prompts = ["<ImageHere>", "a dog <ImageHere> what is this", "<Img><ImageHere></Img> car"]
    together = golden_model.generate(UINT8, prompts, max_new_tokens=8)
    alone = [
        golden_model.generate(UINT8[i : i + 1], prompts[i : i + 1], max_new_tokens=8)[0] for i in range(3)
    ]
    assert together == alone
    assert len(set(together)) > 1


def test_losses_of_a_batch_are_its_members(golden_model, golden_io) -> None:
    samples = {"image": golden_io["image"], "answer": golden_io["captions"]}
    with torch.no_grad():
        losses, tokens = golden_model.token_losses(samples)
        for row in range(3):
            one = {"image": golden_io["image"][row : row + 1], "answer": [golden_io["captions"][row]]}
            alone, _ = golden_model.token_losses(one)
            torch.testing.assert_close(losses[tokens.target_row == row], alone, rtol=0, atol=1e-4)


def test_several_images_in_one_prompt_are_all_seen(golden_model) -> None:
    prompt = "a <ImageHere> dog <ImageHere> car"
    pair = UINT8[None, :2]
    base = {"answer": ["a dog"], "instruction_input": [prompt]}
    with torch.no_grad():
        both = golden_model(base | {"image": pair})["loss"]
        other = golden_model(base | {"image": torch.stack([pair[0, 0], UINT8[2]])[None]})["loss"]
    assert abs(both - other) > 1e-4
    with pytest.raises(ValueError, match=r"the prompts have 2 <ImageHere>, but 1 images were given"):
        golden_model(base | {"image": UINT8[:1]})


def test_without_qformer_neighbours_are_joined_in_raster_order() -> None:
    model = build_golden_model(has_qformer=False, ckpt=None)
    assert model.llama_proj.weight.shape == (64, 4 * 64)
    with torch.no_grad():
        model.llama_proj.weight.copy_(torch.eye(64, 256))
        model.llama_proj.bias.zero_()
        embeds, mask = model.encode_img(UINT8)
        patches = model.ln_vision(model.visual_encoder.forward_features(model.vision.normalized(UINT8)))[
            :, 1:
        ]
    assert mask.shape == (3, 4)
    torch.testing.assert_close(embeds, patches[:, ::4], rtol=0, atol=1e-6)


def test_tokens_that_cannot_be_joined_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"model.patches_per_token is 3, which does not divide .* 16 tokens"
    ):
        build_golden_model(has_qformer=False, patches_per_token=3, ckpt=None)


def test_a_qformer_that_cannot_be_built_is_an_error_of_its_keys() -> None:
    for keys in ({"q_former_kwargs": {"num_attention_heads": 7}}, {"num_query_token": 2**50}):
        with pytest.raises(ConfigError, match=r"^model\.q_former_kwargs, model\.num_query_token: "):
            build_golden_model(**keys, ckpt=None)


def test_a_trained_qformer_is_saved_under_the_originals_names(tmp_path) -> None:
    model = build_golden_model(freeze_qformer=False)
    recorded = torch.load("tests/golden/blip2_qformer.pth", weights_only=True)["model"]
    saved = model.trainable_state_dict()
    assert {"query_tokens", "Qformer.bert.embeddings.LayerNorm.weight"} <= saved.keys()
    qformer = [key for key in saved if key.startswith("Qformer.")]
    assert len(qformer) > 20
    assert all(torch.equal(saved[key], recorded[key]) for key in qformer)
    torch.save({"model": saved}, tmp_path / "c.pth")
    with torch.no_grad():
        model.query_tokens.zero_()
        model.Qformer.layernorm.weight.zero_()
    model.load_checkpoint(tmp_path / "c.pth")
    assert torch.equal(model.query_tokens, recorded["query_tokens"])
    assert torch.equal(model.Qformer.layernorm.weight, recorded["Qformer.bert.embeddings.LayerNorm.weight"])


def test_generation_ends_at_an_end_symbol_of_several_tokens(golden_model) -> None:
    """As "###" does: the batch stops being extended once every row has spelled it, and it is not shown."""
    free = golden_model.generate(UINT8[:1], ["<ImageHere>"], max_new_tokens=12)[0]
    end = free[4:7]  # three characters in the middle of what it says anyway
    model = build_golden_model(end_sym=end)
    assert len(model.llama_tokenizer(end, add_special_tokens=False).input_ids) > 1
    lengths = []
    generate = model.llama_model.generate

    def spy(**kwargs):
        ids = generate(**kwargs)
        lengths.append(ids.shape[1])
        return ids

    model.llama_model.generate = spy
    reply = model.generate(UINT8[:1], ["<ImageHere>"], max_new_tokens=12)[0]
    assert reply == free[: free.index(end)].rstrip()
    assert lengths[0] < 12


def test_an_end_symbol_that_is_spelled_out_in_a_reply_is_text(monkeypatch) -> None:
    """As in a caption about HTML that was learned: only the token ends it."""
    model = build_golden_model(end_sym="</s>")
    said = "was <s>20</s> now 15"
    ids = [*model.prompts.literal.ids(model.prompts.literal.mark(said)), 2]
    assert 2 not in ids[:-1]
    monkeypatch.setattr(model.language, "generate", lambda **_: torch.tensor([[*ids, 7, 7]]))
    assert model.generate(None, ["what?"]) == [said]
    assert len(model.text_stops()) == 0


def test_autocast_does_not_touch_what_is_frozen(golden_model, golden_io) -> None:
    """float32 by YAML is float32 in training too; a trained Q-Former does compute in autocast's bf16."""
    samples = {"image": golden_io["image"], "answer": golden_io["captions"]}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(golden_model(samples)["loss"], golden_io["loss_stage1"], rtol=0, atol=1e-4)
        unfrozen = build_golden_model(freeze_qformer=False).eval()
        embeds, _ = unfrozen.encode_img(golden_io["image"])
    assert embeds.dtype == torch.float32
    difference = (embeds - golden_io["image_embeds"]).abs().max()
    assert 1e-4 < difference < 0.1


def test_what_is_trained_is_float32_and_what_is_frozen_is_not() -> None:
    frozen = build_golden_model(vit_precision="bf16", llm_precision="bf16")
    trained = build_golden_model(
        vit_precision="bf16", llm_precision="bf16", freeze_vit=False, freeze_qformer=False
    )
    expected = torch.bfloat16 if has_fast_bf16(torch.device("cpu")) else torch.float32
    for part in ("visual_encoder", "ln_vision", "Qformer"):
        assert {p.dtype for p in getattr(frozen, part).parameters()} == {expected}
        assert {p.dtype for p in getattr(trained, part).parameters()} == {torch.float32}
    for model in (frozen, trained):
        assert model.llama_proj.weight.dtype == model.query_tokens.dtype == torch.float32
        assert model.llama_model.dtype == expected


def test_an_unfrozen_encoder_is_trained() -> None:
    model = build_golden_model(freeze_vit=False, freeze_qformer=False, drop_path_rate=0.5).train()
    parts = ("visual_encoder", "ln_vision", "Qformer", "llama_model", "llama_proj")
    assert modes(model, parts) == dict.fromkeys(parts, True) | {"llama_model": False}
    torch.manual_seed(0)
    first, second = (model.encode_img(UINT8)[0] for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)  # drop path leaves out blocks at random
    model({"image": UINT8, "answer": ["a", "b", "c"]})["loss"].backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    model.eval()
    assert torch.equal(model.encode_img(UINT8)[0], model.encode_img(UINT8)[0])
    # Frozen, the same encoder leaves out nothing, whatever the runner calls.
    frozen = build_golden_model(drop_path_rate=0.5).train()
    assert torch.equal(frozen.encode_img(UINT8)[0], frozen.encode_img(UINT8)[0])
    torch.testing.assert_close(frozen.encode_img(UINT8)[0], model.encode_img(UINT8)[0], rtol=0, atol=1e-5)


def test_checkpointing_recomputes_the_same_gradient() -> None:
    gradients, stored = [], []
    for use in (False, True):
        model = build_golden_model(freeze_vit=False, use_grad_checkpoint=use).train()
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model({"image": UINT8, "answer": ["a", "b", "c"]})["loss"]
        loss.backward()
        stored.append(kept)
        gradients.append(model.visual_encoder.blocks[0].attn.qkv.weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
    assert stored[1] < 0.8 * stored[0]


def test_a_users_own_model_section_is_enough() -> None:
    """`from_config` takes what a section leaves out from the defaults of its model type."""
    section = {"arch": "minigpt4", "model_type": "tiny_llama", "llm_precision": "fp32"}
    model = registry.get_model_class("minigpt4").from_config(section, device="cpu")
    assert model.image_size == 56
    assert model.llama_model.dtype == torch.float32
    assert model.template.marks == ("[INST]", "[/INST]")

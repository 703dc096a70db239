"""A language model that reads embeddings otherwise than ids is refused; what its folder may set."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    DogeConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.models.execution import UNMASKED_SDPA
from minigpt4.models.library_check import check_language_model
from minigpt4.models.llm_loading import load_language_model
from minigpt4.models.minigpt4 import MiniGPT4
from tests.support.families import SIZES, chatml_tokenizer, save_model, tokenizer_of
from tests.support.golden import build_golden_model

CPU = torch.device("cpu")
PICTURES = torch.arange(2 * 3 * 56 * 56).remainder(251).to(torch.uint8).view(2, 3, 56, 56)
PROMPTS = ["<Img><ImageHere></Img> what is this?", "<Img><ImageHere></Img> and this one here?"]
IDS = {"vocab_size": 264, "bos_token_id": None, "eos_token_id": 258, "pad_token_id": 256}


def save(folder: Path, config: PreTrainedConfig) -> Path:
    """A model with weights large enough that its parts matter."""
    torch.manual_seed(0)
    model: PreTrainedModel = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    chatml_tokenizer().save_pretrained(folder)
    return folder


def build(folder: Path, **keys: Any) -> MiniGPT4:
    torch.manual_seed(0)  # the projection's
    return build_golden_model(
        **{"llama_model": str(folder), "end_sym": None, "ckpt": None, "llm_sanity_check": False} | keys
    )


def replies(model: MiniGPT4) -> list[str]:
    return model.generate(PICTURES, PROMPTS, max_new_tokens=12)


def gemma4() -> PreTrainedConfig:
    """With per-layer inputs."""
    if "gemma4_text" not in CONFIG_MAPPING:
        pytest.skip("this version of transformers has no Gemma 4")
    return AutoConfig.for_model(
        "gemma4_text",
        **SIZES,
        **IDS,
        head_dim=16,
        vocab_size_per_layer_input=264,
        hidden_size_per_layer_input=16,
        layer_types=["sliding_attention", "full_attention"],
    )


REFUSED = {
    "per-layer inputs": (
        gemma4,
        r"model\.llama_model: .* a gemma4_text, cannot be used here",
    ),
    "positions of a reply": (
        lambda: RobertaConfig(**SIZES, **IDS, is_decoder=True),
        "generates different replies .* by \\d+%",
    ),
    "sees what follows": (
        lambda: BertConfig(**SIZES, **IDS),
        "different logits for embeddings than for ids.* by \\d+%",
    ),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_cannot_be_used_is_refused_when_loaded(tmp_path, config, message) -> None:
    folder = save(tmp_path, config())
    with pytest.raises(ConfigError, match=message):
        build(folder)


def test_per_layer_inputs_that_are_found_by_embeddings_are_no_help(tmp_path) -> None:
    """Gemma 4 looks for the ids of embeddings. With these weights it finds them; images have none."""
    config = gemma4()
    torch.manual_seed(0)
    MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).save_pretrained(tmp_path)
    chatml_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model\.llama_model: .* a gemma4_text, cannot be used here"):
        build(tmp_path)


def test_an_attention_that_needs_its_mask_keeps_it(tmp_path) -> None:
    folder = save(tmp_path, DogeConfig(**SIZES, **IDS))
    ids = torch.arange(20, 40)[None]
    library = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    with torch.no_grad():
        expected, begun = library(input_ids=ids).logits[0], library(input_ids=ids[:, :10]).logits[0]
    if not torch.allclose(expected[:10], begun, atol=1e-4):  # transformers 5.4: its Doge sees what follows
        with pytest.raises(ConfigError, match="different logits for embeddings than for ids"):
            build(folder, attn_implementation="sdpa")
        return
    model = build(folder, attn_implementation="sdpa")
    assert not model.language.drops_masks
    with torch.no_grad():
        ours = model.language.logits(model.language.embed(ids), torch.arange(20))
        torch.testing.assert_close(ours, expected.float())


def test_an_attention_that_is_wrong_without_a_mask_keeps_it(tmp_path, monkeypatch) -> None:
    def blind(*given: Any, **how: Any) -> Any:
        return sdpa_attention_forward(*given, **how | {"is_causal": False})

    monkeypatch.setitem(AttentionInterface._global_mapping, UNMASKED_SDPA, blind)
    model = build(save_model(tmp_path, "qwen2"), attn_implementation="sdpa")
    assert not model.language.drops_masks
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        ours = model.language.logits(model.language.embed(ids), torch.arange(20))
        torch.testing.assert_close(ours, model.llama_model(input_ids=ids).logits[0].float())


def test_weights_that_are_not_numbers_are_refused(tmp_path) -> None:
    folder = save_model(tmp_path, "qwen2")
    model = load_language_model(folder, precision="fp32", device=CPU).model
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(ConfigError, match=r"^model\.llama_model: .* costs nan nats per token"):
        build(folder)


def test_a_scale_that_is_forgotten_is_found(tmp_path, monkeypatch) -> None:
    language = load_language_model(save_model(tmp_path, "qwen2"), precision="bf16", device=CPU)
    check_language_model(language, "a model", english=False)
    logits = language.logits
    monkeypatch.setattr(language, "logits", lambda *given: 1.25 * logits(*given))
    with pytest.raises(ConfigError, match=r"^model\.llama_model: a model gives different logits .* by 25%"):
        check_language_model(language, "a model", english=False)


def test_the_text_model_is_taken_out_of_one_that_reads_pictures(tmp_path) -> None:
    """As the folders of Gemma-3 4b, 12b and 27b hold it."""
    tokenizer = tokenizer_of("gemma3")
    text = SIZES | {"head_dim": 16, "vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    torch.manual_seed(0)
    whole = Gemma3ForConditionalGeneration(config).eval()
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = build(tmp_path)
    assert type(model.llama_model).__name__ == "Gemma3ForCausalLM"
    own = whole.get_decoder().state_dict()
    assert all(torch.equal(own[name], value) for name, value in model.llama_model.model.state_dict().items())
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.llama_model(input_ids=ids).logits, whole(input_ids=ids).logits)
    model({"image": PICTURES, "answer": ["a dog", "two cars"]})["loss"].backward()
    assert model.llama_proj.weight.grad.norm() > 0
    assert len(replies(model)) == 2


# What published folders hold, and what someone may write there.
GENERATION: list[dict[str, Any]] = [
    {"do_sample": True, "temperature": 5.0, "top_k": 3},
    {"forced_bos_token_id": 70},
    {"forced_eos_token_id": 70},
    {"suppress_tokens": list(range(100, 200))},
    {"begin_suppress_tokens": list(range(200))},
    {"bad_words_ids": [[n] for n in range(150)]},
    {"min_length": 60},
    {"max_length": 3},
    {"max_time": 0.0},
    {"num_beams": 2, "num_return_sequences": 2},
    {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True},
    {"repetition_penalty": 9.0},
    {"no_repeat_ngram_size": 1},
    {"sequence_bias": [[[70], 1000.0]]},
    {"cache_implementation": "static"},
    {"use_cache": False},
    {"stop_strings": ["e", "a"]},
    {"watermarking_config": {"bias": 20.0}},
    {"prompt_lookup_num_tokens": 3},
    {"assistant_early_exit": 1},
    {"guidance_scale": 7.0},
    {"exponential_decay_length_penalty": [1, 9.0]},
    {"token_healing": True},
    {"prefill_chunk_size": 2},
    # transformers itself refuses these.
    {"cache_implementation": "nonsense"},
    {"compile_config": {"fullgraph": True}},
    {"forced_bos_token_id": 70, "suppress_tokens": [70]},
]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    folder = save_model(tmp_path_factory.mktemp("qwen"), "qwen2")
    model = load_language_model(folder, precision="fp32", device=CPU).model
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def usual(qwen) -> list[str]:
    return replies(build(qwen))


@pytest.mark.parametrize("keys", GENERATION, ids=lambda keys: "-".join(keys))
def test_a_folders_generation_settings_change_no_reply(qwen, usual, keys) -> None:
    (qwen / "generation_config.json").write_text(json.dumps({"eos_token_id": 258} | keys))
    assert replies(build(qwen)) == usual


def test_a_folders_config_asks_for_no_other_outputs(qwen, usual) -> None:
    path = qwen / "config.json"
    config = json.loads(path.read_text())
    asked = {"return_dict": False, "output_hidden_states": True, "use_cache": False}
    path.write_text(json.dumps(config | asked))
    model = build(qwen)
    assert replies(model) == usual
    assert model({"image": PICTURES, "answer": ["a dog", "two cars"]})["loss"] > 0
    path.write_text(json.dumps(config))


def test_a_base_model_without_an_end_token_replies(tmp_path) -> None:
    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, **IDS | {"eos_token_id": None, "pad_token_id": None})
    folder = save(tmp_path, config)
    tokenizer = chatml_tokenizer(None)
    tokenizer.eos_token = tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    model = build(folder, llm_backbone="plain")
    assert model.stop_ids == []
    assert len(replies(model)) == 2
    conv, images = Conversation(model.template), [PICTURES[0]]
    chat = Chat(model, lambda picture: picture)
    chat.upload_img(images[0], conv, [])
    chat.ask("what is it?", conv)
    _, ids = chat.answer(conv, images, max_new_tokens=5, temperature=0)
    assert 0 < len(ids) <= 5


def test_replies_end_at_the_positions_and_longer_prompts_are_refused(tmp_path) -> None:
    config = GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=100, **IDS | {"eos_token_id": None})
    folder = save(tmp_path, config)
    model = build(folder, max_txt_len=20)
    assert model.max_context_len == 80
    prompt = "<Img><ImageHere></Img>" + "why " * 100
    with pytest.raises(DataError, match="a prompt of"):
        model.generate(PICTURES[:1], [prompt])
    embeds, mask = torch.zeros(1, 97, 64), torch.ones(1, 97, dtype=torch.long)
    room = {"max_new_tokens": 9, "eos_token_id": []}
    assert model.language.generate(inputs_embeds=embeds, attention_mask=mask, **room).shape == (1, 3)
    with pytest.raises(DataError, match=r"a prompt of 100 tokens .* limit is 100 "):
        model.language.generate(inputs_embeds=torch.zeros(1, 100, 64), **room)
    with pytest.raises(ConfigError, match=r"model\.max_txt_len is 96, .* made for 100 "):
        build(folder, max_txt_len=96)

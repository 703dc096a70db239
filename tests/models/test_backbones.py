"""Families of language models: how each is found, asked, trained beside, and stopped."""

import math

import pytest
import torch
from transformers import AutoTokenizer

from minigpt4.common.errors import CheckpointError, ConfigError
from minigpt4.models import llm_loading
from minigpt4.models.backbones import (
    AutoBackbone,
    PlainBackbone,
    choose_backbone,
)
from minigpt4.models.library_check import sanity_loss, sentence_ids
from minigpt4.prompts.encoder import IMAGE_ID
from minigpt4.prompts.templates import CHATML, GEMMA, LLAMA2, PLAIN, PromptTemplate
from minigpt4.weights.checkpoint import save_checkpoint
from tests.support import GOLDEN, ROOT
from tests.support.families import MISTRAL, TINY, chatml_tokenizer, save_model
from tests.support.golden import build_golden_model
from tests.support.prompts import prompt_ids

CAPTION = "pkg://minigpt4/prompts/caption.txt"

IMAGES = torch.arange(2 * 3 * 56 * 56, dtype=torch.uint8).view(2, 3, 56, 56)
SAMPLES = {"image": IMAGES, "answer": ["a dog", "two cars"]}
# What ends a reply: "</s>"; "<eos>" and "<end_of_turn>"; "<|im_end|>".
END_IDS = {"llama": [2], "gemma": [1, 5], "gemma2": [1, 5], "gemma3": [1, 5], "qwen2": [258]}
TEMPLATES = {"llama": LLAMA2, "gemma": GEMMA, "gemma2": GEMMA, "gemma3": GEMMA, "qwen2": CHATML}


@pytest.fixture(scope="module", params=TEMPLATES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp(family), family)


@pytest.fixture(scope="module")
def model(folder):
    """The family is not named: its own config and chat template say which it is."""
    torch.manual_seed(1)
    return build_golden_model(llama_model=str(folder), prompt_path=CAPTION, end_sym=None, ckpt=None)


def test_the_family_is_found_and_writes_its_turns(family, model) -> None:
    assert model.template == TEMPLATES[family]
    assert model.stop_ids == END_IDS[family]
    request = (ROOT / "minigpt4/prompts/caption.txt").read_text().strip()
    assert model.prompt_list == [TEMPLATES[family].turn(request)]


def test_stage1_checkpoint_reload_generate_stop(family, folder, model, tmp_path) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(SAMPLES)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"llama_proj.weight", "llama_proj.bias"}

    path = tmp_path / "c.pth"
    save_checkpoint({"model": model.trainable_state_dict(), "meta": model.checkpoint_meta()}, path)
    again = build_golden_model(
        llama_model=str(folder),
        prompt_path=CAPTION,
        end_sym=None,
        ckpt=str(path),
    )
    with torch.no_grad():
        assert torch.equal(again(SAMPLES)["loss"], model(SAMPLES)["loss"])

    prompts = model.prompt_list[:1] * 2
    free = ids_generated(again, prompts, ends=None)
    assert free == ids_generated(model.eval(), prompts, ends=None)
    assert len(free[0]) == 8
    for end in END_IDS[family]:
        stopped = ids_generated(again, prompts, ends=end)
        assert stopped[0] == [*free[0][:3], end]


def ids_generated(model, prompts: list[str], ends: int | None) -> list[list[int]]:
    """The ids of eight greedy steps; the fourth is made to be `ends` (None: nothing can end it)."""
    steps = []

    def interfere(_module, _args, logits):
        steps.append(None)
        logits[..., model.stop_ids] = -100.0
        if ends is not None and len(steps) >= 4:
            logits[..., ends] = 100.0
        return logits

    generated = []
    generate = model.llama_model.generate

    def keep(**kwargs):
        generated.append(generate(**kwargs))
        return generated[-1]

    handle = model.llama_model.get_output_embeddings().register_forward_hook(interfere)
    model.llama_model.generate = keep
    try:
        model.generate(IMAGES, prompts, max_new_tokens=8)
    finally:
        handle.remove()
        model.llama_model.generate = generate
    return generated[0].tolist()


@torch.no_grad()
def test_text_as_ids_and_as_embeddings_gives_the_same_logits(model) -> None:
    ids = torch.tensor([prompt_ids(model.prompts, "a red dog and two cars")])
    as_ids = model.llama_model(input_ids=ids).logits
    as_embeddings = model.llama_model(inputs_embeds=model.embed_tokens(ids)).logits
    torch.testing.assert_close(as_ids, as_embeddings, rtol=0, atol=1e-6)
    # The factor is in: the embedding table's rows alone say something else, where there is one.
    factor = 8.0 if model.llama_model.config.model_type.startswith("gemma") else 1.0
    assert model.language.embedding_factor == pytest.approx(factor, rel=1e-6)
    table = model.llama_model.get_input_embeddings().weight
    torch.testing.assert_close(model.embed_tokens(ids), table[ids] * factor, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_loss_equals_the_librarys_over_all_logits(model) -> None:
    """The second way, through the library's own head (Gemma-2 caps its logits)."""
    losses, tokens = model.token_losses(SAMPLES)
    labels = torch.full((tokens.ids.numel() + 1,), -100)
    labels[tokens.target_index + 1] = tokens.target_ids
    embeds = model.embed(tokens, model.encode_img(IMAGES)[0])
    whole = model.llama_model(
        inputs_embeds=embeds, attention_mask=tokens.attention_mask, labels=labels[:-1].view(tokens.ids.shape)
    )
    torch.testing.assert_close(losses.mean(), whole.loss, rtol=1e-5, atol=1e-5)


def test_a_gemma_projection_of_the_other_convention(tmp_path) -> None:
    """Made where the model still multiplied its inputs by sqrt(64): refused, or converted if said."""
    gemma = str(save_model(tmp_path / "gemma", "gemma"))
    model = build_golden_model(llama_model=gemma, end_sym=None, ckpt=None)
    meta = model.checkpoint_meta() | {"embedding_convention": "table_row"}
    path = tmp_path / "old.pth"
    save_checkpoint({"model": model.trainable_state_dict(), "meta": meta}, path)
    with pytest.raises(CheckpointError, match=r"please set model\.ckpt_embedding_convention to it"):
        build_golden_model(llama_model=gemma, end_sym=None, ckpt=str(path))
    said = {"ckpt": str(path), "ckpt_embedding_convention": "table_row"}
    converted = build_golden_model(llama_model=gemma, end_sym=None, **said)
    with torch.no_grad():
        embeds = [m.encode_img(IMAGES)[0] for m in (model, converted)]
    torch.testing.assert_close(embeds[1], embeds[0] * 8, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma", "gemma3", "llama"])
@pytest.mark.parametrize("backbone", ["auto", "plain"])
def test_gemma_is_never_run_in_float16(family, backbone, tmp_path, monkeypatch) -> None:
    """Whatever family its turns are said to be of; a CPU does not run float16 by itself."""
    monkeypatch.setattr(llm_loading, "dtype_for", lambda *_: torch.float16)
    folder = save_model(tmp_path, family)
    language = llm_loading.load_language_model(
        folder, backbone=backbone, precision="fp16", device=torch.device("cpu")
    )
    assert language.model.dtype == (torch.float16 if family == "llama" else torch.bfloat16)


def test_chatml_turn_as_ids() -> None:
    tokenizer = chatml_tokenizer()
    template = choose_backbone("auto", "qwen2", tokenizer).template
    ids = tokenizer(template.turn("a"), add_special_tokens=False).input_ids
    newline, a = tokenizer("\na", add_special_tokens=False).input_ids
    user, assistant = (tokenizer(word, add_special_tokens=False).input_ids for word in ("user", "assistant"))
    assert (newline, a) == (198, 64)
    assert [len(user), len(assistant)] == [4, 9]
    assert ids == [257, *user, 198, 64, 258, 198, 257, *assistant, 198]


def test_no_bos_is_invented(tmp_path) -> None:
    """ChatML's models here have none; Gemma without its own would collapse."""
    model = build_golden_model(
        llama_model=str(save_model(tmp_path, "qwen2")), llm_backbone="auto", end_sym=None, ckpt=None
    )
    assert prompt_ids(model.prompts, "<ImageHere>a") == [IMAGE_ID] * 6 + [64]
    gemma = AutoTokenizer.from_pretrained(TINY / "gemma")
    assert choose_backbone("auto", "gemma", gemma).bos_id == 2


LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<h>{{ m.role }}</h>\n\n{{ m.content }}<eot>{% endfor %}"
    "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
UNCLOSED = (
    "A chat.{% for m in messages %}\n\n{{ m.role.upper() }}: {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}\n\nASSISTANT: {% endif %}"
)


@pytest.mark.parametrize(
    ("chat_template", "expected"),
    [
        (MISTRAL, PromptTemplate("[INST] ", " [/INST]", "</s>", "</s>")),
        (
            LLAMA3,
            PromptTemplate("<h>user</h>\n\n", "<eot><h>assistant</h>\n\n", "<eot>", "<eot>"),
        ),
        (ZEPHYR, PromptTemplate("<|user|>\n", "</s>\n<|assistant|>\n", "</s>", "</s>\n")),
        (UNCLOSED, PromptTemplate("USER: ", "\nASSISTANT: ", "</s>", "\n")),
    ],
)
def test_turns_are_read_off_a_chat_template(chat_template, expected) -> None:
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "llm")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<h>", "</h>", "<eot>"]})
    tokenizer.chat_template = chat_template
    assert AutoBackbone(tokenizer).template == expected


def test_a_dialogue_is_written_as_the_chat_template_does() -> None:
    """The second way: a whole dialogue through the tokenizer's own template."""
    tokenizer = chatml_tokenizer()
    template = AutoBackbone(tokenizer).template
    written = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": "q1"},
            {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "q2"},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    ours = template.turn("q1") + "a1" + template.next_turn + template.turn("q2")
    assert written == "<|im_start|>system\nYou are helpful.<|im_end|>\n" + ours


def test_a_llama_that_was_taught_other_turns(tmp_path) -> None:
    """SmolLM2 is one: LLaMA's architecture, ChatML's turns. LLaMA-2's own template keeps our spacing."""
    tokenizer = chatml_tokenizer()
    assert choose_backbone("auto", "llama", tokenizer).template == CHATML
    assert choose_backbone("llama", "llama", tokenizer).template == LLAMA2
    llama2 = AutoTokenizer.from_pretrained(GOLDEN / "llm")
    assert llama2.chat_template is None
    assert choose_backbone("auto", "llama", llama2).template == LLAMA2
    llama2.chat_template = MISTRAL
    assert choose_backbone("auto", "llama", llama2).template == LLAMA2


def test_what_nothing_is_known_about() -> None:
    tokenizer = chatml_tokenizer(chat_template=None)
    with pytest.raises(ConfigError, match=r"llm_backbone is auto, but .* has no chat template: please set"):
        choose_backbone("auto", "qwen2", tokenizer)
    assert choose_backbone("plain", "qwen2", tokenizer).template == PLAIN
    assert isinstance(choose_backbone("plain", "gemma", tokenizer), PlainBackbone)
    with pytest.raises(ConfigError, match=r"model.llm_backbone: no backbone is called 'lama'; did you mean"):
        choose_backbone("lama", "llama", tokenizer)
    for broken in (
        "{{ raise_exception('roles must alternate') }}",
        "{{ nothing.at.all }}",
        "always the same",
    ):
        tokenizer.chat_template = broken
        with pytest.raises(ConfigError, match="does not write turns one after the other"):
            choose_backbone("auto", "qwen2", tokenizer)


def test_weights_that_look_dead_are_warned_of(tmp_path, caplog) -> None:
    folder = save_model(tmp_path, "qwen2")
    model = build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None)
    ids = sentence_ids(model.language)
    loss = sanity_loss(model.llama_model(input_ids=ids[None]).logits[0], ids)
    assert loss == pytest.approx(math.log(259), rel=0.05)
    assert "these weights look dead" in caplog.text
    assert f"costs {loss:.2f} nats per token (random weights: 5.56)" in caplog.text
    caplog.clear()
    build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None, llm_sanity_check=False)
    assert "look dead" not in caplog.text


def test_a_model_that_knows_the_sentence_is_not_warned_of(tmp_path, caplog) -> None:
    folder = save_model(tmp_path, "qwen2")
    model = build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None, llm_sanity_check=False)
    model.llama_model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.llama_model.parameters(), lr=1e-2)
    ids = model.llama_tokenizer(
        "The dog is running in the park, and the children are playing in the snow.", return_tensors="pt"
    ).input_ids
    for _ in range(40):
        model.llama_model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.llama_model.save_pretrained(folder)
    caplog.clear()
    build_golden_model(llama_model=str(folder), end_sym=None, ckpt=None)
    assert "look dead" not in caplog.text


def test_attention_and_device_map_pass_through(tmp_path) -> None:
    folder = str(save_model(tmp_path, "llama"))
    losses = {}
    for attention in (None, "eager", "sdpa"):
        model = build_golden_model(llama_model=folder, attn_implementation=attention, ckpt=None)
        losses[attention] = fixed_loss(model)
        assert model.llama_model.config._attn_implementation == (attention or "sdpa")
        fused = {m.fused_attn for m in model.visual_encoder.modules() if hasattr(m, "fused_attn")}
        assert fused == {attention != "eager"}
    assert losses["eager"] == pytest.approx(losses["sdpa"], abs=1e-5)
    with pytest.raises(ConfigError, match=r"model.llama_model: could not load .*flash"):
        build_golden_model(llama_model=folder, attn_implementation="flash_attention_9", ckpt=None)
    spread = build_golden_model(llama_model=folder, device_map="auto", ckpt=None)
    assert fixed_loss(spread) == pytest.approx(losses[None], abs=1e-6)
    assert spread.generate(IMAGES, ["<ImageHere>"] * 2) == model.generate(IMAGES, ["<ImageHere>"] * 2)


@torch.no_grad()
def fixed_loss(model) -> float:
    """With the same projection each time."""
    torch.manual_seed(2)
    torch.nn.init.normal_(model.llama_proj.weight, std=0.02)
    torch.nn.init.zeros_(model.llama_proj.bias)
    return model(SAMPLES)["loss"].item()


@pytest.mark.parametrize(
    ("family", "prompt_path", "warned"),
    [("qwen2", None, True), ("qwen2", "pkg://minigpt4/prompts/caption.txt", False), ("llama", None, False)],
)
def test_a_bare_picture_without_bos_is_warned_of(family, prompt_path, warned, tmp_path, caplog) -> None:
    given = {"end_sym": None, "ckpt": None, "llm_sanity_check": False, "prompt_path": prompt_path}
    build_golden_model(llama_model=str(save_model(tmp_path, family)), llm_backbone="auto", **given)
    assert ("model.prompt_path" in caplog.text) == warned

"""Python's way to a model: questions, dialogues, images, settings."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.serving import ChatModel, GenerationSettings, Message
from tests.support import ROOT
from tests.support.golden import build_golden_model

RED, BLUE = Image.new("RGB", (90, 70), "red"), Image.new("RGB", (56, 56), "blue")
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 20}
IMAGE = "<Img><ImageHere></Img> "


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return ChatModel(build_golden_model(end_sym="</s>").eval(), Blip2ImageEvalProcessor(56))


def asked(model: ChatModel, *turns: str, images=()) -> str:
    """What the library's `generate` answers."""
    roles = ("user", "assistant")
    dialogue = Dialogue(tuple(Turn(roles[place % 2], text) for place, text in enumerate(turns)))
    pixels = torch.stack([model.processor.to_batch(image) for image in images]) if images else None
    return model.model.generate(pixels, [dialogue], max_new_tokens=20)[0]


def test_chat_answers_as_the_model_does(model) -> None:
    expected = asked(model, IMAGE + "what is this?", images=[RED])
    assert model.chat("what is this?", images=[RED], **GREEDY) == expected
    pieces = list(model.chat("what is this?", images=[RED], stream=True, **GREEDY))
    assert "".join(pieces) == expected and len(pieces) > 2


def test_images_stand_where_they_are_put(model, tmp_path) -> None:
    BLUE.save(tmp_path / "blue.png")
    said = model.prompt([model.message("user", ["from", RED, "to", tmp_path / "blue.png", "?"])])
    assert said.dialogue.turns[0].text == f"from {IMAGE}to {IMAGE}?"
    colours = [picture.pixels[:, 0, 0].tolist() for picture in said.pictures]
    assert colours == [[255, 0, 0], [0, 0, 255]]


def test_an_image_comes_in_all_forms(model, tmp_path) -> None:
    path = tmp_path / "blue.png"
    BLUE.save(path)
    pixels = np.asarray(BLUE)
    forms = [BLUE, str(path), path, path.read_bytes(), pixels, torch.tensor(pixels).permute(2, 0, 1)]
    message = model.message("user", "?", forms)
    assert len({picture.key for picture in message.images}) == 1
    for one in forms:
        assert [picture.key for picture in model.message("user", "?", one).images] == [message.images[0].key]
    grey = model.message("user", "?", [pixels[..., 2]]).images[0]
    assert grey.pixels.shape == (3, 56, 56) and bool((grey.pixels == 255).all())
    normalised = model.message("user", "?", [Blip2ImageEvalProcessor(56)(BLUE)]).images[0]
    assert normalised.pixels.dtype is torch.float32 and normalised.key != message.images[0].key


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("no/such.png", "no/such.png"),
        (b"no picture", "cannot be read"),
        ("\ud800.jpg", "cannot be read"),
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4, 3)), r"float64 \[4, 4, 3\]"),
        (torch.zeros(3, 8, 8), r"float32 \[3, 8, 8\].*\[3, 56, 56\]"),
        (7, "an image is a int"),
        (Image.new("F", (4, 4)), "unknown range"),
    ],
)
def test_an_image_that_cannot_be_read(model, image, said) -> None:
    with pytest.raises(DataError, match=said):
        model.chat("what?", images=[image])


def test_messages_that_cannot_be_answered(model) -> None:
    user, image = model.message("user", "x"), model.message("assistant", "y", [RED])
    for messages in ([], [image], [user, user], [user, image, user]):
        with pytest.raises(DataError):
            model.reply(messages)
    for nothing in ("", " \n", []):
        with pytest.raises(DataError, match="empty"):
            model.chat(nothing)
    with pytest.raises(DataError, match="surrogate"):
        model.chat("\ud800")


def test_images_without_words_are_described(model) -> None:
    expected = model.prompt([model.message("user", "Describe this image.", [RED])])
    assert model.prompt([model.message("user", "", [RED])]).tokens == expected.tokens


@pytest.mark.parametrize(
    "setting",
    [{"temperature": -1}, {"top_p": 1.5}, {"max_new_tokens": 0}, {"seed": 0.5}, {"num_beams": True}],
)
def test_settings_are_checked_before_anything_is_generated(model, setting) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        model.chat("what?", **setting)
    with pytest.raises(ConfigError, match="min_new_tokens is 30"):
        model.settings(min_new_tokens=30, max_new_tokens=20)
    with pytest.raises(ConfigError, match=r"temprature.*temperature"):
        model.chat("what?", temprature=1)


def test_a_seed_repeats_and_torchs_generator_stays(model) -> None:
    state = torch.get_rng_state()
    drawn = [model.chat("who?", seed=seed, temperature=2, max_new_tokens=12) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    beside = model.replies(
        [[model.message("user", "who?")]] * 3,
        [GenerationSettings(seed=seed, temperature=2, max_new_tokens=12) for seed in (1, 2, 1)],
    )
    assert [reply.text for reply in beside] == [drawn[0], drawn[2], drawn[0]]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_reply_is_counted(model) -> None:
    reply = model.chat("what is this?", images=[RED], stream=True, **GREEDY | {"max_new_tokens": 5})
    assert reply.finish_reason is None and reply.reply_tokens == 0 and reply.tokens_per_second is None
    reply.wait()
    assert (reply.finish_reason, reply.reply_tokens) == ("length", 5)
    assert reply.prompt_tokens == len(model.model.prompts.ids(reply.prompt.dialogue)[0])
    assert 0 < reply.first_token_seconds < reply.seconds and reply.tokens_per_second > 0


def test_lengths_are_kept(model) -> None:
    for beams in (1, 2):
        settings = GREEDY | {"min_new_tokens": 7, "max_new_tokens": 7, "num_beams": beams}
        reply = model.chat("who?", stream=True, **settings)
        reply.wait()
        assert reply.reply_tokens == 7 and reply.finish_reason == "length"


def test_a_dialogue_remembers(model) -> None:
    chat = model.start_chat()
    first = chat.ask("what is this?", images=[RED], **GREEDY)
    second = chat.ask("where?", images=[BLUE], **GREEDY)
    assert second == asked(model, IMAGE + "what is this?", first, IMAGE + "where?", images=[RED, BLUE])
    assert [(m.role, m.text, len(m.images)) for m in chat.history] == [
        *(("user", "what is this?", 1), ("assistant", first, 0)),
        *(("user", "where?", 1), ("assistant", second, 0)),
    ]
    assert chat.retry(max_new_tokens=3, min_new_tokens=3) != second and len(chat.history) == 4
    assert chat.undo().text == "where?" and chat.ask("where?", images=[BLUE], **GREEDY) == second
    assert chat.undo(2).text == "what is this?" and chat.history == []
    with pytest.raises(DataError, match="no question"):
        chat.retry()
    with pytest.raises(ValueError, match="turns is 0"):
        chat.undo(0)


def test_after_an_error_a_dialogue_goes_on_from_before(model, monkeypatch) -> None:
    chat = model.start_chat()
    chat.ask("what is this?", images=[RED], **GREEDY)
    before = chat.history
    with pytest.raises(DataError):
        chat.ask("and this?", images=["no/such.png"])
    assert chat.history == before
    with monkeypatch.context() as patch:
        patch.setattr(model.model.llama_model, "forward", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chat.ask("and?", **GREEDY)
    assert chat.history == before and chat.reply.finish_reason == "error"
    assert chat.ask("and?", **GREEDY) == asked(
        model, IMAGE + "what is this?", before[1].text, "and?", images=[RED]
    )


def test_a_long_dialogue_leaves_out_turns(model, monkeypatch) -> None:
    chat = model.start_chat()
    for question in ("one?", "two?", "three?"):
        chat.ask(question, images=[RED] if question == "one?" else [], **GREEDY | {"max_new_tokens": 4})
    monkeypatch.setattr(model.model, "max_context_len", 100)
    reply = chat.ask("four?", stream=True, **GREEDY)
    texts = [turn.text for turn in reply.prompt.dialogue.turns]
    assert texts[0] == f"{IMAGE}one?" and texts[-1] == "four?" and "two?" not in texts
    assert reply.left_out == 2 - texts.count("three?") and reply.prompt_tokens <= 100
    assert len(chat.history) == 8
    monkeypatch.setattr(model.model, "max_context_len", 20)
    with pytest.raises(DataError, match="max_context_len is 20"):
        chat.ask("five?")


def test_a_dialogue_beyond_the_context_keeps_its_keys_for_most_turns(model, monkeypatch) -> None:
    monkeypatch.setattr(model.model, "max_context_len", 500)
    chat, computed = model.start_chat(), []
    for number in range(30):
        chat.ask(f"is it {number}?", images=[RED] if not number else [], **GREEDY | {"max_new_tokens": 4})
        computed.append(chat.reply.prompt_tokens - chat.reply.cached_tokens)
    assert chat.reply.left_out > 10
    assert sum(count > 60 for count in computed[20:]) <= 3 and sum(computed[20:]) < 10 * 500 / 3


def test_a_system_text_is_the_templates_or_ones_own(model, monkeypatch) -> None:
    chat = model.start_chat(system="be short")
    chat.ask("who?", **GREEDY)
    assert [turn.text for turn in chat.reply.prompt.dialogue.turns] == ["be short", "who?"]
    assert chat.history[0] == Message("system", ("be short",))


def test_import_is_instant_and_load_is_there(tmp_path) -> None:
    code = (
        "import minigpt4, sys; print(sum(n in sys.modules for n in ('torch', 'omegaconf', 'numpy', 'yaml')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_load_reads_a_yaml_or_the_one_of_a_folder(tmp_path: Path) -> None:
    import minigpt4

    config = (ROOT / "eval_configs/minigpt4_tiny_llama_eval.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config)
    model = minigpt4.load(tmp_path, device="cpu", options=["model.ckpt=null"])
    assert model.model.device.type == "cpu" and model.processor.image_size == 56
    assert model.chat("a small red star", temperature=0, max_new_tokens=3)
    (tmp_path / "other.yaml").write_text(config)
    with pytest.raises(ConfigError, match=r"config\.yaml, other\.yaml"):
        minigpt4.load(tmp_path)

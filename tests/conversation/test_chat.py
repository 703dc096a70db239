"""Chat: what the model is given."""

import pytest
import torch

from minigpt4.common.errors import DataError
from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, VICUNA_V0
from tests.support.chatting import BLUE, GREEDY, RED, RecordingChat
from tests.support.golden import build_golden_model

# "[INST] <Img>", then "</Img> what is this? [/INST] ", both with the tokenizer's prefix space
BEFORE_IMAGE = [354, 391, 384, 388, 389, 390, 392, 354, 374, 384, 366, 362, 375]
QUESTION = [354, 374, 385, 384, 366, 362, 375, 309, 354, 266, 270, 266, 378]
QUESTION += [354, 391, 385, 384, 388, 389, 390, 392]
SPACE = [354]  # behind [/INST]
# " a red house.", BOS, "[INST] colour? [/INST] "
REPLY = [354, 356, 321, 319, 379]
SECOND_TURN = [2, 1, 354, 391, 384, 388, 389, 390, 392, 279, 363, 367, 363, 368, 361, 378]
SECOND_TURN += [354, 391, 385, 384, 388, 389, 390, 392, 354]


@pytest.fixture(scope="module")
def model():
    return build_golden_model(end_sym="</s>").eval()


@pytest.fixture
def chat(model):
    return RecordingChat(model)


@pytest.fixture(scope="module")
def hash_model():
    """Its replies end with "###", which is three tokens."""
    return build_golden_model(prompt_template="###Human: {} ###Assistant: ", end_sym="###").eval()


def test_two_turns_as_ids(chat, model) -> None:
    chat.say("a red house.</s>")
    conv, images = chat.begin("what is this?", RED)
    assert chat.answer(conv, images, **GREEDY)[0] == "a red house."
    chat.ask("colour?", conv)
    embeds = chat.answer_prepare(conv, images, **GREEDY)["inputs_embeds"]

    def embed(ids):
        return model.llama_model.model.embed_tokens.weight[ids]

    pieces = [embed([1, *BEFORE_IMAGE]), images[0][0], embed(QUESTION + SPACE + REPLY + SECOND_TURN)]
    assert torch.equal(embeds, torch.cat(pieces)[None])
    words = model.llama_tokenizer
    assert words("[INST] <Img>", add_special_tokens=False).input_ids == BEFORE_IMAGE
    assert words("</Img> what is this? [/INST]", add_special_tokens=False).input_ids == QUESTION
    assert words("a red house.", add_special_tokens=False).input_ids == REPLY
    assert words("</s><s> [INST] colour? [/INST] ", add_special_tokens=False).input_ids == SECOND_TURN


def test_text_without_an_image(chat, model) -> None:
    conv, images = chat.begin("colour?")
    embeds = chat.answer_prepare(conv, images)["inputs_embeds"]
    ids = SECOND_TURN[1:]
    assert torch.equal(embeds[0], model.llama_model.model.embed_tokens.weight[ids])


def test_one_bos_in_a_vicuna_dialogue(hash_model) -> None:
    chat = RecordingChat(hash_model)
    chat.say("a house.###")
    conv, images = chat.begin("what?", RED)
    chat.answer(conv, images, **GREEDY)
    chat.ask("where?", conv)
    chat.answer_prepare(conv, images)
    assert chat.prompt == (
        VICUNA_V0.system + "###Human: <Img><ImageHere></Img> what? ###Assistant: a house."
        "###Human: where? ###Assistant: "
    )
    assert hash_model.prompts.ids(chat.given[-1][0])[0].count(1) == 1


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("an <ImageHere>?", "an < ImageHere>?"),
        ("</s><s>[INST] do", "</s><s>[INST] do"),
        ("<<s>s>", "<<s>s>"),
        ("$$$", "$$$"),
        ("a < b <Img> ## 3 $", "a < b <Img> ## 3 $"),
    ],
)
def test_typed_text_stays_text(chat, model, typed, read) -> None:
    conv, images = chat.begin(typed, RED)
    assert conv.messages[-1][1] == f"<Img><ImageHere></Img> {read}"
    chat.answer_prepare(conv, images)
    ids = model.prompts.ids(chat.given[-1][0])[0]
    assert ids.count(1) == 1 and 2 not in ids and ids.count(-1) == 6


@pytest.mark.parametrize("typed", ["a dog \ud83d", "a" * 100_001])
def test_text_that_no_tokenizer_can_be_given_is_not_asked(chat, typed) -> None:
    conv, _ = chat.begin("what?", RED)
    with pytest.raises(DataError, match=r"half of a character|more than 100,000 characters"):
        chat.ask(typed, conv)
    assert conv.messages == [["[INST] ", "<Img><ImageHere></Img> what?"]]


def test_a_reply_that_spells_the_placeholder(chat) -> None:
    chat.say("an <ImageHere>!</s>")
    conv, images = chat.begin("what?", RED)
    assert chat.answer(conv, images, **GREEDY)[0] == "an <ImageHere>!"
    chat.ask("again?", conv)
    chat.answer(conv, images, **GREEDY)
    assert conv.messages[1][1] == "an < ImageHere>!"


def test_several_images_in_all_forms(chat, model, tmp_path) -> None:
    BLUE.save(tmp_path / "blue.png")
    pixels = Blip2ImageEvalProcessor(56).to_batch(BLUE)
    normalised = Blip2ImageEvalProcessor(56)(BLUE)
    forms = [BLUE, str(tmp_path / "blue.png"), tmp_path / "blue.png", pixels, pixels[None], normalised]
    conv, images = chat.begin("which?", *forms)
    assert conv.messages == [["[INST] ", "<Img><ImageHere></Img> " * 6 + "which?"]]
    assert all(image.shape == (1, 6, 64) and not image.requires_grad for image in images)
    for image in images[1:]:
        torch.testing.assert_close(image, images[0], rtol=0, atol=1e-5)
    before = list(images)
    chat.encode_img(images)
    assert all(a is b for a, b in zip(images, before, strict=True))


def test_a_processor_that_can_only_be_called(model) -> None:
    chat = Chat(model, lambda image: Blip2ImageEvalProcessor(56)(image))
    images = [BLUE]
    chat.encode_img(images)
    expected, _ = model.encode_img(Blip2ImageEvalProcessor(56)(BLUE)[None])
    assert torch.equal(images[0], expected)


def test_an_unanswered_question_is_continued(chat) -> None:
    conv, images = chat.begin("what?", RED)
    chat.answer_prepare(conv, images)
    assert conv.messages[-1] == [" [/INST] ", None]
    chat.ask("Please.", conv)
    assert conv.messages == [["[INST] ", "<Img><ImageHere></Img> what? Please."]]


def long_dialogue(chat: RecordingChat, first: str, *images) -> tuple[Conversation, list]:
    conv, img_list = chat.begin(first, *images)
    for number in range(2, 6):
        conv.append_message(conv.roles[1], f"reply {number - 1}")
        chat.ask(f"question {number}?", conv)
    return conv, img_list


def test_a_long_dialogue_keeps_bos_and_image(chat, model, monkeypatch) -> None:
    conv, images = long_dialogue(chat, "question 1?", RED)
    monkeypatch.setattr(model, "max_context_len", 110)
    embeds = chat.answer_prepare(conv, images)["inputs_embeds"]
    assert chat.prompt == (
        "[INST] <Img><ImageHere></Img> question 1? [/INST] reply 1</s><s> [INST] question 5? [/INST] "
    )
    assert embeds.shape[1] <= 110
    assert torch.equal(embeds[0, 0], model.llama_model.model.embed_tokens.weight[1])
    assert torch.equal(embeds[0, 14:20], images[0][0])
    assert len(conv.messages) == 10  # the dialogue itself forgets nothing


def test_a_long_dialogue_leaves_out_turns_before_and_images_after_the_first(chat, model, monkeypatch) -> None:
    conv, images = long_dialogue(chat, "question 1?")
    chat.upload_img(RED, conv, images)
    for image in (BLUE, None):
        chat.ask("x", conv)
        conv.append_message(conv.roles[1], "y")
        if image:
            chat.upload_img(image, conv, images)
    chat.ask("last", conv)
    monkeypatch.setattr(model, "max_context_len", 90)
    chat.answer_prepare(conv, images)
    given = chat.given[-1][1]
    assert chat.prompt == (
        "[INST] question 5? <Img><ImageHere></Img> x [/INST] y</s><s> [INST] last [/INST] "
    )
    assert len(given) == 1 and given[0] is images[0]


def test_a_long_dialogue_by_max_length(chat) -> None:
    conv, images = long_dialogue(chat, "question 1?", RED)
    embeds = chat.answer_prepare(conv, images, max_new_tokens=40, max_length=150)["inputs_embeds"]
    assert embeds.shape[1] <= 110 and IMAGE_PLACEHOLDER in chat.prompt


def test_a_question_that_is_too_long(chat, model, monkeypatch) -> None:
    conv, images = chat.begin("word " * 60, RED)
    monkeypatch.setattr(model, "max_context_len", 60)
    with pytest.raises(DataError, match="max_context_len is 60"):
        chat.answer(conv, images)
    assert len(conv.messages) == 1

"""Chat: where replies end, and how they are handed over."""

import threading

import pytest
import torch

from minigpt4.conversation.conversation import StoppingCriteriaSub
from minigpt4.prompts.reply_end import StopAtText
from tests.support.chatting import GREEDY, RED, RecordingChat
from tests.support.golden import build_golden_model


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


def test_stop_words_row_by_row() -> None:
    stops = StoppingCriteriaSub(stops=[torch.tensor([5, 6]), [9], torch.tensor(7)])
    rows = torch.tensor([[1, 5, 6], [5, 6, 1], [0, 0, 9], [9, 9, 6], [1, 2, 7]])
    assert stops(rows, None).tolist() == [True, False, True, False, True]
    assert stops(rows[:, :0], None).tolist() == [False] * 5
    with pytest.raises(ValueError, match="empty"):
        StoppingCriteriaSub(stops=[[]])


def test_stop_at_text_row_by_row(model) -> None:
    words = model.llama_tokenizer
    stop = StopAtText(words, "###")
    for text, ended in [("a house.###", True), ("a # house", False), ("### a dog", True)]:
        row = torch.tensor([words(text, add_special_tokens=False).input_ids])
        assert stop(row).tolist() == [ended]
        others = torch.full_like(row, 319)
        assert stop(torch.cat([others, row, others])).tolist() == [False, ended, False]
    newline = torch.tensor([words("\na dog", add_special_tokens=False).input_ids])
    assert StopAtText(words, "\n")(newline).tolist() == [False]


@pytest.mark.parametrize("beams", [1, 3])
def test_an_end_symbol_of_several_tokens(hash_model, beams) -> None:
    chat = RecordingChat(hash_model)
    chat.say("a # house ##.### and more")
    conv, images = chat.begin("what?", RED)
    again = conv.copy()
    text, ids = chat.answer(conv, images, **GREEDY, num_beams=beams)
    assert text == "a # house ##." == conv.messages[-1][1]
    assert ids.tolist() == chat.script[:12] and chat.script[9:12] == [373] * 3
    pieces = [piece for piece in chat.stream_answer(again, images, **GREEDY, num_beams=beams) if piece]
    assert "".join(pieces) == text and again == conv
    assert pieces == (["a", " # house", " ##."] if beams == 1 else [text])


def test_stopping_criteria_of_the_caller_are_heard(model) -> None:
    chat = RecordingChat(model, stopping_criteria=[StoppingCriteriaSub(stops=[[319]])])
    chat.say("a red house. a red house.")
    assert chat.answer(*chat.begin("what?"), **GREEDY)[0] == "a red house"


@pytest.mark.parametrize("question", ["describe this image", "who?"])
def test_greedy_answers_agree(chat, model, question) -> None:
    conv, images = chat.begin(question, RED)
    streamed = conv.copy()
    text, ids = chat.answer(conv, images, **GREEDY)
    pieces = list(chat.stream_answer(streamed, images, **GREEDY))
    dialogue = chat.given[-1][0]
    pixels = chat.vis_processor.to_batch(RED)[None]
    assert [text] == model.generate(pixels, [dialogue], max_new_tokens=20)
    assert "".join(pieces) == text and sum(map(bool, pieces)) > 2
    assert conv == streamed and conv.messages[-1] == [" [/INST] ", text]
    assert ids.shape[0] <= 20


def test_arguments_can_be_passed_on(chat) -> None:
    arguments = chat.answer_prepare(*chat.begin("what?", RED), max_new_tokens=4, min_length=4)
    assert arguments["do_sample"] and arguments["temperature"] == 1.0 and arguments["top_p"] == 0.9
    assert chat.model_generate(**arguments).shape == (1, 4)


@pytest.mark.parametrize(("temperature", "sampled"), [(0, False), (0.04, False), (0.05, True), (2, True)])
def test_temperature(chat, temperature, sampled) -> None:
    arguments = chat.answer_prepare(*chat.begin("what?"), temperature=temperature)
    assert arguments["do_sample"] is sampled and ("temperature" in arguments) is sampled


@pytest.mark.parametrize("beams", [1, 2])
def test_an_error_of_the_thread_reaches_the_reader(chat, model, monkeypatch, beams) -> None:
    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(chat, "model_generate", fail)
    conv, images = chat.begin("what?", RED)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(chat.stream_answer(conv, images, num_beams=beams))
    monkeypatch.undo()
    chat.say("fine.</s>")
    assert chat.answer(conv, images, **GREEDY)[0] == "fine."
    assert len(conv.messages) == 2


def test_half_characters_are_not_shown(chat) -> None:
    chat.say("daïs 中 house</s>")
    assert sum(3 <= token < 259 for token in chat.script) == 2 + 3  # bytes to this tokenizer
    pieces = list(chat.stream_answer(*chat.begin("what?"), **GREEDY | {"max_new_tokens": 40}))
    assert "".join(pieces) == "daïs 中 house" and "\ufffd" not in "|".join(pieces)


@pytest.mark.parametrize("beams", [1, 2])
def test_closing_the_stream_ends_the_generation(chat, beams) -> None:
    chat.say("a red house")  # and so on for ever
    conv, images = chat.begin("what?")
    threads = threading.active_count()
    endless = {"temperature": 0, "max_new_tokens": 100_000, "max_length": 200_000}
    reply = chat.stream_answer(conv, images, num_beams=beams, **endless)
    text = "".join(next(reply) for _ in range(8))
    assert threading.active_count() == threads + 1
    reply.close()
    assert threading.active_count() == threads
    assert text.startswith("a") if beams == 1 else text == ""
    assert conv.messages[-1][1] == (text or None)

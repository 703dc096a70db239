"""Replies side by side, from several threads, and what is kept between them."""

import gc
from dataclasses import replace
from threading import Thread

import pytest
import torch
from PIL import Image

from minigpt4.common.errors import DataError
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel, GenerationSettings
from tests.support.families import save_model
from tests.support.golden import build_golden_model

RED, BLUE = Image.new("RGB", (90, 70), "red"), Image.new("RGB", (56, 56), "blue")
GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=12)
QUESTIONS = ["who?", ("what is this?", [RED]), ("and these, where are they?", [BLUE, RED, BLUE])]


@pytest.fixture(scope="module")
def golden():
    return build_golden_model(end_sym="</s>").eval()


@pytest.fixture
def model(golden) -> ChatModel:
    return ChatModel(golden, Blip2ImageEvalProcessor(56))


def asked(model: ChatModel, questions=QUESTIONS) -> list:
    pairs = [one if isinstance(one, tuple) else (one, ()) for one in questions]
    return [[model.message("user", *pair)] for pair in pairs]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_batch_gives_per_row_what_single_prompts_give(family, tmp_path) -> None:
    folder = save_model(tmp_path / "llm", family, **({"sliding_window": 16} if family == "gemma3" else {}))
    torch.manual_seed(0)
    keys = {"ckpt": None, "llm_sanity_check": False, "end_sym": None}
    model = ChatModel(build_golden_model(llama_model=str(folder), **keys).eval(), Blip2ImageEvalProcessor(56))
    settings = [
        GREEDY,
        replace(GREEDY, temperature=1.5, seed=3, top_k=20, max_new_tokens=7),
        replace(GREEDY, repetition_penalty=1.3, min_new_tokens=9),
    ]
    beside = model.replies(asked(model), settings)
    for messages, one, reply in zip(asked(model), settings, beside, strict=True):
        alone = model.reply(messages, **vars(one))
        assert alone.wait() == reply.text and alone.ids == reply.ids
        assert (alone.finish_reason, list(reply)) == (reply.finish_reason, [reply.text])


def test_batches_keep_their_order_and_size(model) -> None:
    alone = [model.chat(*one, **vars(GREEDY)) for one in [("who?",), *QUESTIONS[1:]]]
    assert model.batch(QUESTIONS * 2, batch_size=4, **vars(GREEDY)) == alone * 2
    assert model.batch([]) == []
    with pytest.raises(DataError, match="empty"):
        model.batch(["who?", ""])


def test_beams_and_others_in_one_batch(model) -> None:
    settings = [GREEDY, replace(GREEDY, num_beams=3), GREEDY]
    alone = [model.reply(m, **vars(s)).wait() for m, s in zip(asked(model), settings, strict=True)]
    assert [reply.text for reply in model.replies(asked(model), settings)] == alone


def test_models_that_cannot_take_back_a_token_answer_in_one_piece(model, monkeypatch) -> None:
    expected = model.chat(*QUESTIONS[1], **vars(GREEDY))
    drawn = {"temperature": 2, "seed": 5, "max_new_tokens": 8}
    monkeypatch.setattr(model.engine, "_stepwise", False)
    assert list(model.chat(*QUESTIONS[1], stream=True, **vars(GREEDY))) == [expected]
    state = torch.get_rng_state()
    assert model.chat("who?", **drawn) == model.chat("who?", **drawn)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_take_turns(model) -> None:
    alone = [model.reply(messages, **vars(GREEDY)).wait() for messages in asked(model)]
    replies = [model.reply(messages, **vars(GREEDY)) for messages in asked(model)]
    threads = [Thread(target=reply.wait) for reply in replies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.text for reply in replies] == alone


def test_an_image_is_looked_at_once(model, monkeypatch) -> None:
    seen, look = [], model.model.encode_img
    monkeypatch.setattr(model.model, "encode_img", lambda pixels: seen.append(len(pixels)) or look(pixels))
    chat = model.start_chat()
    chat.ask("what?", images=[RED, RED], **vars(GREEDY))
    chat.ask("what?", images=[BLUE, RED.copy()], **vars(GREEDY))
    model.batch([("what?", [BLUE]), ("who?", [RED])], **vars(GREEDY))
    assert seen == [1, 1]


def test_images_are_kept_up_to_a_limit(golden, monkeypatch) -> None:
    model = ChatModel(golden, Blip2ImageEvalProcessor(56), keep_images=1)
    seen, look = [], golden.encode_img
    monkeypatch.setattr(golden, "encode_img", lambda pixels: seen.append(len(pixels)) or look(pixels))
    for images in ([RED], [RED], [BLUE], [RED], [RED, BLUE]):
        model.chat("what?", images=images, **vars(GREEDY))
    assert seen == [1, 1, 1, 1]


def test_caches_are_kept_up_to_a_limit_the_oldest_go_first(golden) -> None:
    model = ChatModel(golden, Blip2ImageEvalProcessor(56), keep_caches=2)
    chats = [model.start_chat() for _ in range(3)]
    for chat, word in zip(chats, ("one red house", "is it a dog", "what is there"), strict=True):
        chat.ask(word, **vars(GREEDY))
    for chat, kept in zip(reversed(chats), (True, True, False), strict=True):
        chat.ask("and?", **vars(GREEDY))
        assert (chat.reply.cached_tokens > 10) is kept


def test_caches_hold_no_more_tokens_than_they_may(golden, monkeypatch) -> None:
    monkeypatch.setattr(golden, "max_context_len", 20)
    model = ChatModel(golden, Blip2ImageEvalProcessor(56))
    monkeypatch.setattr(golden, "max_context_len", 200)
    chats = [model.start_chat() for _ in range(3)]
    for chat, word in zip(chats, ("one red house", "is it a dog", "what is there"), strict=True):
        chat.ask(word, **vars(GREEDY))
    held = [chat.ask("and?", stream=True, **vars(GREEDY)) for chat in reversed(chats)]
    next(held[0])
    assert held[0].cached_tokens > 10
    for reply in held:
        reply.wait()
    assert held[2].cached_tokens == 0


def test_a_stopped_or_forgotten_reply_leaves_its_cache_a_failed_one_does_not(model, monkeypatch) -> None:
    chat = model.start_chat()
    reply = chat.ask("what is this?", images=[RED], stream=True, **vars(GREEDY))
    next(reply)
    reply.stop()
    list(reply)
    assert reply.finish_reason == "cancelled" and len(reply.ids) < 12
    assert chat.history[-1].text == reply.text != ""

    next(chat.ask("and?", stream=True, **vars(GREEDY)))
    before = chat.reply.prompt_tokens
    assert 0 < chat.reply.cached_tokens < before
    chat.retry(**vars(GREEDY))
    assert chat.reply.cached_tokens == before - 1

    next(model.reply(asked(model)[1], **vars(GREEDY)))
    gc.collect()  # nobody has that reply
    again = model.reply(asked(model)[1], **vars(GREEDY))
    again.wait()
    assert again.cached_tokens == again.prompt_tokens - 1

    with monkeypatch.context() as patch:
        patch.setattr(model.model.llama_model, "forward", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            chat.ask("why?", **vars(GREEDY))
    chat.ask("why?", **vars(GREEDY))
    assert chat.reply.cached_tokens == 0


def test_replies_end_at_the_last_position(model, monkeypatch) -> None:
    monkeypatch.setattr(model.engine, "_most", 60)
    replies = model.replies(asked(model)[:2], [replace(GREEDY, max_new_tokens=45, min_new_tokens=45)] * 2)
    for reply in replies:
        assert reply.prompt_tokens + len(reply.ids) == 60 and reply.finish_reason == "length"
    with pytest.raises(DataError, match="59 tokens"):
        model.chat("word " * 40)

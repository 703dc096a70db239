"""Replies side by side are those of one at a time, whoever comes and goes."""

import random
import time

import pytest
from PIL import Image

from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel
from minigpt4.serving.batching import Batcher
from minigpt4.serving.reply_engine import Full
from tests.support.asking import ask
from tests.support.golden import build_golden_model

QUESTIONS = ("what is this?", "hi", "describe the picture, please, in many words", "is it red or blue?")


@pytest.fixture(scope="module")
def model() -> ChatModel:
    return ChatModel(build_golden_model(end_sym="</s>").eval(), Blip2ImageEvalProcessor(56))


@pytest.fixture
def batcher(model):
    batcher = Batcher(model.engine, together=4, waiting=100)
    yield batcher
    batcher.close()


def test_replies_are_those_of_one_at_a_time(model, batcher) -> None:
    """Different lengths, settings and times of coming; some leave early."""
    rng = random.Random(0)
    sent = []
    for number in range(40):
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        settings = {
            "temperature": rng.choice([0, 1.0]),
            "seed": number,
            "repetition_penalty": rng.choice([1.0, 1.2]),
            "max_new_tokens": rng.randint(1, 25),
            "num_beams": 2 if number % 13 == 5 else 1,
        }
        images = [Image.new("RGB", (60, 60), colour)] * rng.randint(0, 2)
        question = " ".join(rng.sample(QUESTIONS, rng.randint(1, 3)))
        asked, ended = ask(model, question, images, **settings)
        batcher.submit(asked)
        if number % 7 == 3:
            asked.reply.stop()
        sent.append((asked, ended, question, images, settings))
        time.sleep(rng.choice([0, 0, 0.02]))
    for asked, ended, question, images, settings in sent:
        assert ended.wait(60) and asked.error is None
        if asked.reply.cancelled:
            continue
        alone = model.chat(question, images, stream=True, **settings)
        assert asked.reply.text == alone.wait()
        assert (asked.reply.finish_reason, asked.reply.reply_tokens) == (
            *(alone.finish_reason, alone.reply_tokens),
        )
    assert batcher.load == (0, 0)


def test_a_later_turn_reads_only_what_is_new(model, batcher) -> None:
    first, ended = ask(model, "what is this?", [Image.new("RGB", (60, 60), "red")], max_new_tokens=4)
    batcher.submit(first)
    assert ended.wait(60)
    again, ended = ask(model, "what is this?", [Image.new("RGB", (60, 60), "red")], max_new_tokens=4)
    batcher.submit(again)
    assert ended.wait(60)
    assert (first.reply.cached_tokens, again.reply.cached_tokens) == (0, first.reply.prompt_tokens - 1)


def test_what_fails_fails_alone(model, batcher, monkeypatch) -> None:
    good, good_ended = ask(model, "hi", temperature=0, max_new_tokens=20)
    bad, bad_ended = ask(model, "what is this?", temperature=0)
    embed = type(model.engine).embed

    def failing(engine, prompts):
        if prompts[0] is bad.prompt:
            raise RuntimeError("out of luck")
        return embed(engine, prompts)

    monkeypatch.setattr(type(model.engine), "embed", failing)
    batcher.submit(good)
    batcher.submit(bad)
    assert bad_ended.wait(60) and good_ended.wait(60)
    assert str(bad.error) == "out of luck" and bad.reply.finish_reason == "error"
    assert good.error is None and good.reply.text == model.chat("hi", temperature=0, max_new_tokens=20)


def test_a_full_queue_refuses(model) -> None:
    batcher = Batcher(model.engine, together=1, waiting=2)
    try:
        endless, _ = ask(model, "hi", min_new_tokens=400, max_new_tokens=400)
        batcher.submit(endless)
        while batcher.load != (1, 0):
            time.sleep(0.001)
        others = [ask(model, "hi", max_new_tokens=1) for _ in range(3)]
        for asked, _ in others[:2]:
            batcher.submit(asked)
        with pytest.raises(Full):
            batcher.submit(others[2][0])
        endless.reply.stop()
        assert all(ended.wait(60) for _, ended in others[:2])
        assert endless.reply.finish_reason == "cancelled"
    finally:
        batcher.close()

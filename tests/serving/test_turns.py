"""Turns cost what is new: replies from kept keys and values are those to fresh prompts, token for token."""

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel, ChatSession, GenerationSettings
from minigpt4.serving.engine import Engine
from tests.support import ROOT
from tests.support.families import TINY, save_model
from tests.support.golden import build_golden_model

IMAGES = [Image.new("RGB", (56, 56), colour) for colour in ("red", "blue", "white", "black")]
WORDS = ["a", "red", "green", "small", "large", "star", "circle", "what", "where", "is", "it", "and"]
# Shorter than any prompt; these families look no further back in some or all of their layers.
WINDOW = {"sliding_window": 16}
FAMILIES = {"llama": {}, "gemma": {}, "gemma2": WINDOW, "gemma3": WINDOW, "mistral": WINDOW}
TURNS = 24
GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=12)


def chat_model(llm: str, **keys: Any) -> ChatModel:
    torch.manual_seed(0)
    keys = {"ckpt": None, "llm_sanity_check": False, "end_sym": None, **keys}
    model = build_golden_model(llama_model=llm, **keys)
    return ChatModel(model.eval(), Blip2ImageEvalProcessor(56))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llm")
    made = {family: str(save_model(folder / family, family, **keys)) for family, keys in FAMILIES.items()}
    return made | {f"tiny {family}": str(ROOT / TINY / family) for family in ("gemma", "llama")}


def act(chat: ChatSession, rng: random.Random) -> None:
    """Ask, and perhaps stop in mid-reply; ask again; or change what was asked."""
    stream = {**vars(GREEDY), "stream": True, "max_new_tokens": rng.randint(1, 9)}
    question = " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))
    images = rng.choices(IMAGES, k=rng.choice([0, 0, 0, 1, 2]))
    what = rng.choice(["ask", "ask", "ask", "retry", "edit", "undo"]) if chat.reply else "ask"
    if what == "undo" and len(chat.history) > 2:
        chat.undo()
    if what == "edit":
        chat.undo()
    reply = chat.retry(**stream) if what == "retry" else chat.ask(question, images=images, **stream)
    if rng.random() < 0.2:
        for _ in zip(range(rng.randint(0, 2)), reply, strict=False):
            pass
        reply.close()
    reply.wait()


@pytest.mark.parametrize("family", [*FAMILIES, "tiny gemma", "tiny llama"])
def test_replies_equal_those_to_fresh_prompts(family, folders) -> None:
    model = chat_model(folders[family], llm_backbone="llama" if family == "mistral" else "auto")
    fresh, rng, reused = Engine(model.model, keep_caches=0), random.Random(family), 0
    chats = [model.start_chat(), model.start_chat()]
    for turn in range(TURNS):
        place = rng.randrange(2)
        if len(chats[place].history) > 12:
            chats[place] = model.start_chat()
        chat = chats[place]
        act(chat, rng)
        reply = chat.reply
        settings = replace(GREEDY, max_new_tokens=max(len(reply.ids), 1))
        expected = fresh.reply(reply.prompt, settings)
        expected.wait()
        assert reply.ids == expected.ids[: len(reply.ids)] and not expected.cached_tokens, f"turn {turn}"
        reused += reply.cached_tokens > 0
    assert reused > TURNS // 2


class Counter:
    """A compiler that compiles nothing, and counts."""

    def __init__(self) -> None:
        self.compiled = 0

    def __call__(self, graph, inputs):
        self.compiled += 1
        return graph.forward


def talk(model: ChatModel, plain: ChatModel, rng: random.Random) -> None:
    """A few turns, each compared with what is not compiled and not cached."""
    chat = model.start_chat()
    for _ in range(8):
        act(chat, rng)
        expected = plain.engine.reply(chat.reply.prompt, replace(GREEDY, max_new_tokens=9))
        expected.wait()
        assert chat.reply.ids == expected.ids[: len(chat.reply.ids)]


@pytest.mark.parametrize("family", ["gemma3", pytest.param("llama", marks=pytest.mark.slow)])
def test_one_compiled_step_serves_all_dialogues(family, folders, monkeypatch) -> None:
    counter, compile_ = Counter(), torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **keys: compile_(f, **keys, backend=counter))
    plain = chat_model(folders[family], max_context_len=200)
    model = chat_model(folders[family], max_context_len=200, compile=True)
    model.warm_up()
    questions = ["who?", ("what is it?", IMAGES[:1]), "where is the circle?"]
    expected = plain.batch(questions, **vars(GREEDY))
    assert model.batch(questions, **vars(GREEDY)) == expected
    ready = counter.compiled
    rng = random.Random(family)
    for _ in range(3):
        talk(model, plain, rng)
    # Four rows, as the three were filled up to.
    assert model.batch([*questions, questions[0]], **vars(GREEDY)) == [*expected, expected[0]]
    assert counter.compiled == ready > 0

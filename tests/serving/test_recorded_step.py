"""Replies with a recorded step are those of the plain loop; the graph is the fake of `fake_graph`."""

import random
import time
from dataclasses import replace
from itertools import chain

import pytest
import torch
from PIL import Image

from minigpt4.models import recorded_step
from minigpt4.models.fixed_key_values import FixedKeyValues
from minigpt4.models.recorded_step import can_record
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel, ChatSession, GenerationSettings
from minigpt4.serving.batching import Batcher
from tests.support import fake_graph
from tests.support.asking import ask
from tests.support.families import save_model
from tests.support.golden import build_golden_model

COLOURS = ("red", "blue", "white")
GREEDY = GenerationSettings(temperature=0, repetition_penalty=1.0, max_new_tokens=8, min_new_tokens=8)
SAMPLED = replace(GREEDY, temperature=1.3, seed=7, top_k=30, repetition_penalty=1.2)
WINDOWS = {"llama": {}, "gemma3": {"sliding_window": 16}}


@pytest.fixture(scope="module")
def golden():
    return build_golden_model(end_sym="</s>").eval()


@pytest.fixture
def graphs(monkeypatch):
    monkeypatch.setattr(recorded_step, "CAPACITY_STEP", 256)
    return fake_graph.use(monkeypatch)


def chat_model(golden, **limits: bool) -> ChatModel:
    return ChatModel(golden, Blip2ImageEvalProcessor(56), **limits)


def turn(chat: ChatSession, rng: random.Random) -> tuple[list[int], int]:
    """Ask, perhaps stop in mid-reply, or ask again: the ids of the reply, and how many tokens were cached."""
    settings = vars(rng.choice([GREEDY, SAMPLED])) | {"stream": True}
    if chat.reply and rng.random() < 0.3:
        reply = chat.retry(**settings)
    else:
        images = [Image.new("RGB", (60, 60), colour) for colour in COLOURS if rng.random() < 0.3]
        reply = chat.ask(rng.choice(["what is it?", "and where is the red circle?"]), images, **settings)
    if rng.random() < 0.3:
        for _ in zip(range(rng.randint(1, 4)), reply, strict=False):
            pass
        reply.stop()
    reply.wait()
    return list(reply.ids), reply.cached_tokens


def addresses(fixed: FixedKeyValues) -> list[int]:
    tensors = [*chain.from_iterable(fixed.tensors()), fixed._ids, fixed._positions]
    return [tensor.data_ptr() for tensor in tensors]


@pytest.mark.parametrize("family", WINDOWS)
def test_replies_are_those_of_the_plain_loop(family, graphs, tmp_path, monkeypatch) -> None:
    """Two dialogues in turns, with retries and stops; the tensors stay where they are."""
    folder = save_model(tmp_path / "llm", family, **WINDOWS[family])
    torch.manual_seed(0)
    keys = {"ckpt": None, "llm_sanity_check": False, "end_sym": None}
    built = build_golden_model(llama_model=str(folder), **keys).eval()
    seen = set()
    step = FixedKeyValues.step

    def watched(fixed: FixedKeyValues, ids: torch.Tensor) -> torch.Tensor:
        logits = step(fixed, ids)
        seen.add((*addresses(fixed), logits.data_ptr()))
        return logits

    monkeypatch.setattr(FixedKeyValues, "step", watched)
    said = []
    for record in (False, True):
        model, rng = chat_model(built, record=record), random.Random(family)
        chats = [model.start_chat(), model.start_chat()]
        said.append([turn(rng.choice(chats), rng) for _ in range(9)])
    assert said[1] == said[0] and len(graphs) == len(seen) == 1
    assert sum(cached > 0 for _, cached in said[1]) > 4


def test_a_graph_for_each_capacity(golden, graphs, monkeypatch) -> None:
    monkeypatch.setattr(recorded_step, "CAPACITY_STEP", 64)
    plain, model = chat_model(golden, record=False).start_chat(), chat_model(golden).start_chat()
    needed = set()
    for _ in range(5):
        expected = plain.ask("what is this?", **vars(GREEDY))
        assert model.ask("what is this?", **vars(GREEDY)) == expected
        needed.add(-(-(model.reply.prompt_tokens + 8) // 64))
    assert len(graphs) == len(needed) > 1
    model.undo()  # what is shorter fits
    assert model.ask("what is this?", **vars(GREEDY)) == expected and len(graphs) == len(needed)


def test_a_reply_beside_another_one_runs_as_loaded(golden, graphs) -> None:
    model, plain = chat_model(golden), chat_model(golden, record=False)
    questions = ("what is this?", "describe the picture")
    expected = [plain.chat(question, **vars(GREEDY)) for question in questions]
    replies = [model.chat(question, stream=True, **vars(GREEDY)) for question in questions]
    steps = [list(pieces) for pieces in zip(*replies, strict=False)]
    assert len(steps) > 2 and len(graphs) == 1
    assert [reply.wait() for reply in replies] == expected


def test_a_server_records_the_steps_of_a_reply_that_is_alone(golden, graphs, monkeypatch) -> None:
    """The first request is alone before the others come, and after they have left."""
    plain, model, step = chat_model(golden, record=False), chat_model(golden), FixedKeyValues.step
    alone = []
    monkeypatch.setattr(
        FixedKeyValues, "step", lambda keys, ids: alone.append(keys.length) or step(keys, ids)
    )
    batcher = Batcher(model.engine, together=4)
    first, *others = (
        ask(model, question, **vars(replace(GREEDY, max_new_tokens=length, min_new_tokens=length)))
        for question, length in (("what is this?", 60), ("describe the picture", 5), ("hi", 9))
    )
    batcher.submit(first[0])
    while len(alone) < 4:
        time.sleep(0.001)
    for request, _ in others:
        batcher.submit(request)
    for request, ended in (first, *others):
        assert ended.wait(60) and request.error is None
        expected = plain.engine.reply(request.prompt, request.settings)
        expected.wait()
        assert request.reply.ids == expected.ids
    batcher.close()
    lengths = set(alone)
    assert len(graphs) == 1 and len(lengths) < 59 and max(lengths) - min(lengths) >= len(lengths)


def test_what_cannot_be_recorded_runs_as_loaded(golden, graphs, monkeypatch, caplog) -> None:
    expected = chat_model(golden, record=False).chat("what is this?", **vars(GREEDY))
    forward = golden.llama_model.forward

    def waiting(*args, **kwargs):
        out = forward(*args, **kwargs)
        return out if out.logits.sum().item() else None

    monkeypatch.setattr(golden.llama_model, "forward", waiting)
    model = chat_model(golden)
    assert [model.chat("what is this?", **vars(GREEDY)) for _ in range(2)] == [expected] * 2
    assert not graphs and [record.levelname for record in caplog.records] == ["WARNING"]


def test_only_a_model_on_one_cuda_device_is_recorded(golden) -> None:
    assert recorded_step.fits_static_buffers(golden.language)
    assert not can_record(golden.language)

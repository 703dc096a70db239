"""Replies on a CUDA card: `pytest -m cuda`."""

import threading
from typing import Any

import pytest
import torch

from minigpt4.models import recorded_step
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel
from minigpt4.serving.batching import Batcher
from minigpt4.serving.reply_engine import Asked
from tests.support.golden import build_golden_model
from tests.support.shards import picture

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="no CUDA device is seen; `pytest -m cuda` looks for one"
    ),
]
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 30, "min_new_tokens": 30}


def model(**limits: bool | int) -> ChatModel:
    golden = build_golden_model(end_sym="</s>").eval().to("cuda")
    return ChatModel(golden, Blip2ImageEvalProcessor(56), **limits)


def dialogue(model: ChatModel) -> list[list[int]]:
    """The ids of four replies."""
    chat, ids = model.start_chat(), []
    for turn in range(4):
        chat.ask("what is this?", [picture(turn)] if turn % 2 == 0 else [], **GREEDY)
        ids.append(list(chat.reply.ids))
    return ids


def test_turns_and_batches_equal_fresh_prompts() -> None:
    fresh, kept = dialogue(model(keep_caches=0)), model()
    assert dialogue(kept) == fresh
    batcher, ended = Batcher(kept.engine, together=4), threading.Semaphore(0)
    sent = []
    for place in range(6):
        prompt = kept.prompt([kept.message("user", "what is this?" * (place + 1), [picture(place)])])
        asked = Asked(prompt, kept.settings(**GREEDY), lambda: None)
        asked.notify = lambda one=asked: ended.release() if one.reply.finish_reason else None
        batcher.submit(asked)
        sent.append(asked)
    for _ in sent:
        assert ended.acquire(timeout=60)
    batcher.close()
    for place, asked in enumerate(sent):
        alone = kept.chat("what is this?" * (place + 1), [picture(place)], stream=True, **GREEDY)
        alone.wait()
        assert asked.error is None and asked.reply.ids == alone.ids


@pytest.mark.parametrize("capacity", [1024, 64])
def test_recorded_replies_equal_those_as_loaded(capacity, monkeypatch, caplog) -> None:
    monkeypatch.setattr(recorded_step, "CAPACITY_STEP", capacity)
    recorded = model()
    assert dialogue(recorded) == dialogue(model(record=False))
    assert recorded_step.can_record(recorded.model.language) and not caplog.records


def test_a_model_that_waits_for_the_card_replies_as_loaded(monkeypatch, caplog) -> None:
    plain, waiting = model(record=False), model()
    forward = waiting.model.llama_model.forward

    def wait(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        return out if out.logits.sum().item() else None

    monkeypatch.setattr(waiting.model.llama_model, "forward", wait)
    assert dialogue(waiting) == dialogue(plain) and len(caplog.records) == 1
    torch.randn(1, device="cuda")  # the global generator is not locked


def test_compiled_replies_equal_uncompiled_ones() -> None:
    compiled = model()
    compiled.model.language.compile_layers()
    compiled = ChatModel(compiled.model, compiled.processor)
    assert dialogue(compiled) == dialogue(model())

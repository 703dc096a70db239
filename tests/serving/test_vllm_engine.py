"""What vLLM is handed, with a stand-in for it; and, where it is installed, that it replies as we do."""

import asyncio
import sys
import time
from argparse import Namespace
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from minigpt4.commands.serve import engine_of
from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel, from_config
from minigpt4.serving.reply_engine import Full
from minigpt4.serving.vllm_engine import VllmEngine, prepare, sampling_params
from tests.support import GOLDEN, ROOT
from tests.support.asking import ask
from tests.support.golden import build_golden_model

RED = Image.new("RGB", (60, 60), "red")


@dataclass
class StandIn:
    """Remembers what it is handed, and says what it is told to, a token at a time; None: waits."""

    says: list[int | None] = field(default_factory=list)
    arguments: dict[str, Any] = field(default_factory=dict)
    handed: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    aborted: int = 0
    closed: bool = False

    def from_engine_args(self, arguments: dict[str, Any]) -> "StandIn":
        self.arguments = arguments
        return self

    async def generate(self, prompt, sampling, request_id):
        self.handed.append((prompt, sampling))
        try:
            for token in self.says:
                if token is None:
                    await asyncio.sleep(3600)
                said = SimpleNamespace(token_ids=[token], finish_reason=None)
                yield SimpleNamespace(outputs=[said], num_cached_tokens=5)
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted += 1
            raise

    def shutdown(self) -> None:
        self.closed = True


@pytest.fixture
def vllm(monkeypatch) -> StandIn:
    library: Any = ModuleType("vllm")
    parameters: Any = ModuleType("vllm.sampling_params")
    stand_in = StandIn()
    library.AsyncEngineArgs, library.AsyncLLMEngine, library.SamplingParams = dict, stand_in, dict
    parameters.RequestOutputKind = SimpleNamespace(DELTA="delta")
    monkeypatch.setitem(sys.modules, "vllm", library)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    return stand_in


@pytest.fixture
def chat() -> ChatModel:
    return ChatModel(build_golden_model(end_sym="###").eval(), Blip2ImageEvalProcessor(56))


def test_vllm_is_handed_ids_and_what_the_images_look_like(chat, vllm) -> None:
    """And generates with our settings, up to our end symbol."""
    tokenizer = chat.model.language.tokenizer
    vllm.says = tokenizer("a red square### never", add_special_tokens=False).input_ids
    asked, ended = ask(chat, "what is this?", [RED], temperature=0.5, top_k=3, seed=7, max_new_tokens=30)
    expected, _ = chat.engine.embed([asked.prompt])
    engine = VllmEngine(chat, GOLDEN / "llm", 2, 3, 30, tensor_parallel_size=2)
    engine.submit(asked)
    assert ended.wait(30) and asked.error is None
    engine.close()

    (prompt, sampling), is_text = vllm.handed[0], torch.tensor(vllm.handed[0][0]["prompt_is_token_ids"])
    ids = chat.model.prompts.ids(asked.prompt.dialogue)[0]
    assert prompt["prompt_token_ids"] == [max(one, 0) for one in ids]
    assert is_text.tolist() == [one >= 0 for one in ids] and not is_text.all()
    assert torch.equal(prompt["prompt_embeds"][~is_text], expected[0][~is_text])
    assert sampling == {
        **{"temperature": 0.5, "top_p": 0.9, "top_k": 3, "repetition_penalty": 1.05, "seed": 7},
        **{"min_tokens": 1, "max_tokens": 30, "ignore_eos": True, "stop_token_ids": chat.model.stop_ids},
        **{"detokenize": False, "output_kind": "delta"},
    }
    assert vllm.arguments == {
        **{"model": str(GOLDEN / "llm"), "dtype": "float32", "max_num_seqs": 2, "tensor_parallel_size": 2},
        "max_model_len": chat.engine.longest + 30,
        **{"enable_prompt_embeds": True, "skip_tokenizer_init": True, "disable_log_stats": True},
    }
    assert (asked.reply.text, asked.reply.finish_reason) == ("a red square", "stop")
    assert asked.reply.ids == vllm.says[: len(asked.reply.ids)] and len(asked.reply.ids) < len(vllm.says)
    assert (asked.reply.cached_tokens, asked.reply.prompt_tokens) == (5, len(ids))
    assert (vllm.aborted, vllm.closed) == (1, True)
    assert all(one.is_meta for one in chat.model.language.parameters())


def test_who_leaves_frees_a_place(chat, vllm) -> None:
    vllm.says = [5, None]
    engine = VllmEngine(chat, GOLDEN / "llm", 1, 1, 50)
    first, second, third = (ask(chat, "hi") for _ in range(3))
    engine.submit(first[0])
    engine.submit(second[0])
    assert engine.load == (1, 1)
    with pytest.raises(Full):
        engine.submit(third[0])
    while not first[0].reply.ids:
        time.sleep(0.01)
    first[0].reply.stop()
    assert first[1].wait(30) and first[0].reply.finish_reason == "cancelled"
    engine.submit(third[0])
    engine.close()
    assert [one.reply.finish_reason for one, _ in (second, third)] == ["cancelled"] * 2
    assert (engine.load, vllm.closed) == ((0, 0), True)
    assert all("prompt_embeds" not in prompt for prompt, _ in vllm.handed)


def test_what_fails_fails_alone(chat, vllm) -> None:
    vllm.says = [5, 6]
    engine = VllmEngine(chat, GOLDEN / "llm", 2, 2, 50)
    good, bad = ask(chat, "hi", max_new_tokens=2), ask(chat, "hi", num_beams=3)
    for asked, _ in (good, bad):
        engine.submit(asked)
    assert good[1].wait(30) and bad[1].wait(30)
    engine.close()
    assert (good[0].reply.ids, good[0].reply.finish_reason, good[0].error) == ([5, 6], "length", None)
    assert bad[0].reply.finish_reason == "error" and "num_beams" in str(bad[0].error)


@pytest.mark.parametrize("change", [{"temperature": 0}, {"top_p": 0}])
def test_greedy_settings_stay_greedy(chat, vllm, change) -> None:
    sampling = sampling_params(chat.settings(**change), [2])
    assert (sampling["temperature"], sampling["top_p"]) == (0.0, 1.0)


def config(family: str, *options: str) -> Config:
    path = ROOT / "train_configs" / f"minigpt4_tiny_{family}_stage1_pretrain.yaml"
    return Config(Namespace(cfg_path=str(path), options=list(options)))


@pytest.mark.parametrize(
    "option",
    [
        *("model.llm_trainable=full", "model.llm_precision=8bit", "model.compile=True", "model.lora_r=8"),
        "model.attn_implementation=flash_attention_2",
    ],
)
def test_what_vllm_would_not_serve_as_described_is_refused(option) -> None:
    with pytest.raises(ConfigError, match=option.split("=")[0]):
        prepare(config("gemma", option))


def test_a_checkpoint_with_a_language_model_is_refused(tmp_path) -> None:
    path = tmp_path / "full.pth"
    torch.save({"model": {"llama_model.lm_head.weight": torch.zeros(1)}}, path)
    with pytest.raises(ConfigError, match=r"full\.pth"):
        prepare(config("gemma", f"model.ckpt={path}"))


@pytest.mark.parametrize("words", [["mine"], ["own", "a=1"], ["vllm", "a"], ["vllm", "=1"]])
def test_engines_that_there_are_not_are_refused(words) -> None:
    with pytest.raises(ConfigError, match="--engine"):
        engine_of(words)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_its_environment_is_named() -> None:
    with pytest.raises(ConfigError, match="make vllm"):
        engine_of(["vllm"])


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM lives in an environment of its own: make vllm")
@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("family", ["gemma", "llama"])
def test_vllm_replies_as_we_do(family, monkeypatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    cfg = config(family, "model.llm_precision=fp32", "model.vit_precision=fp32")
    folder = prepare(cfg)
    chat = from_config(cfg, "cpu")
    greedy = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 30}
    asked, alone = [], []
    for number in range(12):
        images = [Image.new("RGB", (60, 60), (number * 20, 255 - number * 20, 90))] * (number % 3)
        question = "what is this? " * (number % 4 + 1)
        reply = chat.chat(question, images, stream=True, **greedy)
        reply.wait()
        alone.append((reply.ids, reply.text, reply.finish_reason))
        asked.append(ask(chat, question, images, **greedy))
    engine = VllmEngine(chat, folder, 4, 12, 30, enforce_eager=True)
    try:
        for one, _ in asked:
            engine.submit(one)
        assert all(ended.wait(300) for _, ended in asked)
    finally:
        engine.close()
    assert [(one.reply.ids, one.reply.text, one.reply.finish_reason) for one, _ in asked] == alone

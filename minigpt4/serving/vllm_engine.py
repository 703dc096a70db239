"""Generates replies with vLLM, on one or more GPUs or machines.

vLLM gets the ids of a prompt's text, and the embeddings of its image tokens, which vision tower and
projection compute in this process. It embeds the text itself (including Gemma's factor) and processes both as
one sequence. Its tokenizer is not used: it returns ids.

Shapes: N images, P tokens per image, T tokens of a prompt, D the language model's width.
"""

import asyncio
import itertools
import logging
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.config import Config
from minigpt4.common.errors import ConfigError, in_short
from minigpt4.models.decoding import Row
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.reply_engine import Asked, Full, ReplyEngine
from minigpt4.weights.checkpoint import read_checkpoint
from minigpt4.weights.resolver import resolve_file, resolve_model

log = logging.getLogger(__name__)

# Seconds between checks whether a stalled reply was cancelled.
LOOK = 0.2


def prepare(cfg: Config) -> Path:
    """The folder for vLLM to load; our own copy of the weights stays in CPU memory until it is freed.

    Raises:
        ConfigError: if vLLM cannot serve what the config describes.
    """
    settings = cfg.model_settings()
    fitting = {
        **{"llm_trainable": ["frozen"], "llm_precision": ["bf16", "fp16", "fp32"], "low_resource": [False]},
        "lora_r": [0],
        **{"compile": [False], "attn_implementation": [None, "sdpa", "eager"]},  # what works on a CPU
    }
    for name, values in fitting.items():
        if (value := getattr(settings, name)) not in values:
            wanted = " or ".join(map(str, values))
            raise ConfigError(f"--engine vllm: model.{name} is {value}, it must be {wanted}")
    folder = resolve_model(settings.llama_model, "model.llama_model")
    if not folder.is_dir():
        raise ConfigError(f"--engine vllm: model.llama_model is the file {folder}, it must be a folder")
    if settings.ckpt:
        tensors = read_checkpoint(resolve_file(settings.ckpt, "model.ckpt"))["model"]
        if any(name.startswith("llama_model.") and name.endswith(".weight") for name in tensors):
            raise ConfigError(
                f"--engine vllm: {settings.ckpt} holds a language model, and vLLM reads model.llama_model's"
            )
    cfg.model_cfg.device_map = "cpu"
    return folder


class VllmEngine(ReplyEngine):
    """Sends requests to vLLM.

    Args:
        chat: computes the embeddings. Its language model's weights are freed, so it cannot answer any more.
        folder: from `prepare`.
        together: maximum batch size.
        waiting: maximum number of queued requests.
        longest: maximum length of a reply, in tokens.
        options: fields of vLLM's `AsyncEngineArgs`.

    Raises:
        ConfigError: if vLLM cannot serve this folder, or not with these options.
    """

    def __init__(
        self, chat: ChatModel, folder: Path, together: int, waiting: int, longest: int, **options: Any
    ) -> None:
        self.engine, self.together, self.most = chat.engine, together, together + waiting
        language = chat.model.language
        self._dtype, self._width = language.model.dtype, language.width
        language.to("meta")
        arguments = {
            "dtype": str(self._dtype).removeprefix("torch."),
            "max_model_len": min(self.engine.longest + longest, language.positions or 2**31),
            "max_num_seqs": together,
            "disable_log_stats": True,
        }
        fixed = {"model": str(folder), "enable_prompt_embeds": True, "skip_tokenizer_init": True}
        self._requests: set[Asked] = set()
        self._lock, self._numbers = threading.Lock(), itertools.count()
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="vision")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._llm = self._on_loop(_start({**arguments, **options, **fixed})).result()

    def _on_loop(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def load(self) -> tuple[int, int]:
        asked = len(self._requests)
        return min(asked, self.together), max(asked - self.together, 0)

    def submit(self, request: Asked) -> None:
        with self._lock:
            if len(self._requests) >= self.most:
                raise Full(self.load[1])
            self._requests.add(request)
        self._on_loop(self._reply(request))

    def close(self) -> None:
        for request in tuple(self._requests):
            request.reply.stop()
        self._on_loop(self._end()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._eyes.shutdown()

    async def _end(self) -> None:
        while self._requests:
            await asyncio.sleep(LOOK / 10)
        self._llm.shutdown()
        own = asyncio.all_tasks() - {asyncio.current_task()}  # vLLM's, which it does not wait for
        for task in own:
            task.cancel()
        if own:
            await asyncio.wait(own, timeout=1)

    async def _reply(self, request: Asked) -> None:
        reply = request.reply
        row = Row(self.engine.limited(request.settings, request.prompt), self.engine.reader())
        reason = None
        try:
            work = asyncio.ensure_future(self._generate(request, row))
            while not (await asyncio.wait({work}, timeout=LOOK))[0]:
                if reply.cancelled:
                    work.cancel()  # vLLM frees its place then
            reason = None if work.cancelled() else work.result()
        except Exception as error:
            log.exception("a reply failed")
            request.error, reason = error, "error"
        with self._lock:
            self._requests.discard(request)
        reply.finish(row.reader.text, reason)
        request.notify()

    async def _generate(self, request: Asked, row: Row) -> str | None:
        """Why the reply ended; None if it was cancelled."""
        reply, reason = request.reply, None
        prompt = await self._loop.run_in_executor(self._eyes, self._prompt, request.prompt)
        reply.start()
        sampling = sampling_params(row.settings, self.engine.model.stop_ids)
        async with aclosing(self._llm.generate(prompt, sampling, str(next(self._numbers)))) as outputs:
            async for output in outputs:
                for token in output.outputs[0].token_ids:
                    row.add(token)
                reply.cached_tokens = output.num_cached_tokens or 0
                reply.count(row.reader.ids)
                reply.text = row.reader.settled
                reason = row.finish_reason or output.outputs[0].finish_reason
                if reason or reply.cancelled:
                    break
                request.notify()
        return reason

    def _prompt(self, prompt: Prompt) -> dict[str, Any]:
        """A prompt for vLLM: ids [T], a mask of valid ids [T], and embeddings [T, D] for the others."""
        is_text = [isinstance(token, int) for token in prompt.tokens]
        ids = [token if text else 0 for token, text in zip(prompt.tokens, is_text, strict=True)]
        seen = self.engine.see([prompt])
        if seen is None:
            return {"prompt_token_ids": ids}
        embeds = torch.zeros(len(ids), self._width, dtype=self._dtype)
        embeds[~torch.tensor(is_text)] = seen.flatten(0, 1).to(embeds)
        return {"prompt_token_ids": ids, "prompt_is_token_ids": is_text, "prompt_embeds": embeds}


async def _start(arguments: Mapping[str, Any]) -> Any:
    """vLLM's engine. Raises ConfigError."""
    # It would fork a process with threads, and send usage statistics.
    os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import AsyncEngineArgs, AsyncLLMEngine  # pyright: ignore[reportMissingImports]

    try:
        return AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**arguments))
    except Exception as error:
        raise ConfigError(f"--engine vllm: vLLM does not start ({in_short(error)})") from error


def sampling_params(settings: GenerationSettings, stop_ids: list[int]) -> Any:
    """Settings as `SamplingParams`, whose `repetition_penalty` also counts the prompt's tokens.

    Raises:
        ConfigError: for beam search, which vLLM's engine does not support.
    """
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    if settings.num_beams > 1:
        raise ConfigError(f"settings.num_beams is {settings.num_beams}, vLLM's engine has no beam search")
    drawn = settings.sampled and settings.top_p > 0
    return SamplingParams(
        temperature=settings.temperature if drawn else 0.0,
        top_p=settings.top_p if drawn else 1.0,
        top_k=settings.top_k,
        repetition_penalty=settings.repetition_penalty,
        min_tokens=settings.min_new_tokens,
        max_tokens=settings.max_new_tokens,
        seed=settings.seed,
        # The end ids are those that our template and the model's own config name.
        ignore_eos=True,
        stop_token_ids=stop_ids,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )

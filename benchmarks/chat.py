#!/usr/bin/env python
"""Chat on random weights: time to the first token, and throughput.

The time to the first token is measured at turns 1 to 10 of a dialogue about an image, with and without the
cached keys and values of earlier turns; tokens per second at several batch sizes, as loaded and compiled (one
reply on a GPU also without a recorded step), and for several concurrent requests, as in serve.py; images per
second of captions of 20 tokens, as in infer.py. The first reply of the process is measured separately. Each
figure is written as soon as it is measured.

example:
  python -m benchmarks.chat --size tiny
  python -m benchmarks.chat --size gemma2b --device cuda --json output/chat.json
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from minigpt4.serving import ChatModel, GenerationSettings

SIZES = {"tiny": "tiny", "smollm2": "smollm2", "gemma2b": "real"}
TURNS = 10
QUESTION = "a red small star above and large blue circle and green star above a small red circle"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--device", help="cuda or cpu; the best one by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (1 8 32)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens a reply (128)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    figures: dict[str, Any] = {"size": args.size}
    for name, value in measure(args):
        figures[name] = value
        print(f"{name:34}{shown(value)}", flush=True)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace) -> Any:
    """(name, figure) pairs."""
    import torch

    from minigpt4.serving import ChatModel

    start = time.perf_counter()
    model = load(args)
    device = model.model.device
    on_gpu = device.type == "cuda"
    yield "device", torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} CPU threads"
    yield "torch", torch.__version__
    yield "seconds_to_build", time.perf_counter() - start
    yield "first_reply_tokens_per_second", speed(model, 1, args.tokens)
    for batch in args.batches:
        yield f"tokens_per_second_at_{batch}", speed(model, batch, args.tokens)
    if on_gpu:
        plain = ChatModel(model.model, model.processor, record=False)
        yield "unrecorded_tokens_per_second_at_1", speed(plain, 1, args.tokens)
    for batch in args.batches:
        yield f"served_tokens_per_second_to_{batch}", served(model, batch, args.tokens)
        yield f"images_per_second_at_{batch}", captions(model, batch)
    yield "first_token_seconds", first_tokens(model, args.tokens // 4)
    yield "first_token_seconds_without_cache", first_tokens(model, args.tokens // 4, keep_caches=0)
    if args.compile:
        model.model.language.compile_layers()
        compiled = ChatModel(model.model, model.processor)
        for batch in args.batches:
            start = time.perf_counter()
            speed(compiled, batch, args.tokens)
            yield f"seconds_to_compile_at_{batch}", time.perf_counter() - start
            yield f"compiled_tokens_per_second_at_{batch}", speed(compiled, batch, args.tokens)
        yield "compiled_first_token_seconds", first_tokens(compiled, args.tokens // 4)
    if on_gpu:
        yield "peak_memory_gb", torch.cuda.max_memory_allocated(device) / 1e9


def load(args: argparse.Namespace) -> "ChatModel":
    """The model, without end tokens, so that all replies have full length."""
    from benchmarks import random_model
    from minigpt4.common.device import pick_device
    from minigpt4.processors import Blip2ImageEvalProcessor
    from minigpt4.serving import ChatModel

    size = random_model.SIZES[SIZES[args.size]]
    with tempfile.TemporaryDirectory() as folder:
        model = random_model.build(
            size, Path(folder) / "model", pick_device(args.device), vit_precision="bf16"
        )
    model.stop_ids = []
    return ChatModel(model.eval(), Blip2ImageEvalProcessor(image_size=224))


def speed(model: "ChatModel", batch: int, tokens: int) -> float:
    """Tokens per second of greedy replies in one batch, after the first token."""
    dialogues = [[model.message("user", QUESTION, [picture(place)])] for place in range(batch)]
    replies = model.replies(dialogues, [greedy(tokens)] * batch)
    seconds = max(reply.seconds - (reply.first_token_seconds or 0) for reply in replies)
    return sum(reply.reply_tokens - 1 for reply in replies) / seconds


def served(model: "ChatModel", askers: int, tokens: int) -> float:
    """Tokens per second of concurrent requests, from the first request to the last token."""
    from minigpt4.serving.batching import Batcher
    from minigpt4.serving.reply_engine import Asked

    batcher, ended = Batcher(model.engine, together=askers), threading.Semaphore(0)
    prompts = [
        model.prompt([model.message("user", QUESTION, [picture(100 + place)])]) for place in range(askers)
    ]
    start = time.perf_counter()
    for prompt in prompts:
        asked = Asked(prompt, greedy(tokens), lambda: None)
        asked.notify = lambda one=asked: ended.release() if one.reply.finish_reason else None
        batcher.submit(asked)
    for _ in prompts:
        ended.acquire()
    seconds = time.perf_counter() - start
    batcher.close()
    return askers * tokens / seconds


def captions(model: "ChatModel", batch: int) -> float:
    """Images per second, each with a caption of 20 tokens: encoder, prompt and reply."""
    count = max(2 * batch, 8)
    pictures = [picture(1000 + place) for place in range(count)]
    start = time.perf_counter()
    model.batch([("", [one]) for one in pictures], batch, **vars(greedy(20)))
    return count / (time.perf_counter() - start)


def first_tokens(model: "ChatModel", tokens: int, **limits: int) -> list[float]:
    """Seconds to the first token at each turn of a dialogue.

    Args:
        model: answers the questions.
        tokens: of each reply.
        limits: keep_caches=0 computes every prompt anew.
    """
    from minigpt4.serving import ChatModel

    chat = (ChatModel(model.model, model.processor, **limits) if limits else model).start_chat()
    seconds = []
    for turn in range(TURNS):
        chat.ask(QUESTION, images=[] if turn else [picture(0)], **vars(greedy(tokens)))
        assert chat.reply
        seconds.append(chat.reply.first_token_seconds or 0)
    return seconds


def greedy(tokens: int) -> "GenerationSettings":
    """Greedy decoding of so many tokens."""
    from minigpt4.serving import GenerationSettings

    return GenerationSettings(temperature=0, repetition_penalty=1.0, min_new_tokens=0, max_new_tokens=tokens)


def picture(seed: int) -> "np.ndarray":
    """Noise, [224, 224, 3]."""
    import numpy as np

    return np.random.default_rng(seed).integers(0, 256, (224, 224, 3), np.uint8)


def shown(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, list):
        return " ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""The server under load: concurrent clients, which check that each reply is the expected one.

The server runs the tiny Gemma in its own process. Each client sends its own pictures, and the expected
replies come from a model in this process, so a reply to another client's question is noticed.

example:
  python -m benchmarks.serving --clients 50 --seconds 60 --json output/serving.json
  python -m benchmarks.serving --clients 32 --timeout 10
"""

import argparse
import base64
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

CONFIG = "eval_configs/minigpt4_tiny_gemma_eval.yaml"
OPTIONS = ("model.llm_precision=fp32", "model.vit_precision=fp32")  # else a batch may differ in rounding
PICTURES = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=50, help="concurrent clients (50)")
    parser.add_argument("--seconds", type=float, default=60, help="duration (60)")
    parser.add_argument("--timeout", type=float, default=30, help="seconds a client waits for a reply (30)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    args = parser.parse_args()
    figures = measure(args)
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Start a server, and send it requests."""
    import minigpt4

    model = minigpt4.load(CONFIG, "cpu", OPTIONS)
    asked = [question(number) for number in range(args.clients * PICTURES)]
    expected = [model.chat(text, [image], temperature=0, max_new_tokens=20) for text, image in asked]
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "serve.py", "--cfg-path", CONFIG, "--port", "0", "--device", "cpu"]
        server = subprocess.Popen([*command, "--options", *OPTIONS], stderr=log, stdout=log)
        try:
            return under_load(args, server, address(server, log), list(zip(asked, expected, strict=True)))
        finally:
            server.terminate()
            server.wait()


def under_load(
    args: argparse.Namespace, server: "subprocess.Popen[bytes]", url: str, known: list[Any]
) -> dict[str, Any]:
    """Send requests for `args.seconds`; the figures."""
    import openai

    counts: Counter[str] = Counter()
    latencies: list[list[float]] = [[] for _ in range(args.clients)]
    end = time.monotonic() + args.seconds

    def ask(number: int) -> None:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=args.timeout)
        rng = random.Random(number)
        mine = known[number * PICTURES : (number + 1) * PICTURES]
        while time.monotonic() < end:
            (text, image), expected = rng.choice(mine)
            start = time.monotonic()
            try:
                said = reply(client, text, image)
            except openai.APIError as error:
                counts[type(error).__name__] += 1
                continue
            latencies[number].append(time.monotonic() - start)
            counts["right" if said == expected else "wrong"] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(args.clients)]
    for thread in threads:
        thread.start()
    time.sleep(args.seconds / 4)
    early = resident(server.pid)
    for thread in threads:
        thread.join()
    waits = sorted(wait for some in latencies for wait in some)
    if not waits:
        sys.exit(f"no replies: {dict(counts)}")
    replies = [len(some) for some in latencies]
    return {
        "clients": args.clients,
        "seconds": args.seconds,
        **counts,
        "replies_per_second": round(len(waits) / args.seconds, 1),
        "seconds_median": round(waits[len(waits) // 2], 3),
        "seconds_95th": round(waits[len(waits) * 95 // 100], 3),
        "seconds_longest": round(waits[-1], 3),
        "replies_of_the_slowest_client": min(replies),
        "replies_of_the_fastest_client": max(replies),
        "memory_mb_after_a_quarter": early,
        "memory_mb_at_the_end": resident(server.pid),
    }


def question(number: int) -> tuple[str, Any]:
    """A question and a picture, different for each number."""
    from PIL import Image

    colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    return f"what is number {number}?", Image.new("RGB", (56, 56), colour)


def reply(client: Any, text: str, image: Any) -> str:
    """The server's reply."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    answer = client.chat.completions.create(
        model="minigpt4", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=20
    )
    return answer.choices[0].message.content


def address(server: "subprocess.Popen[bytes]", log: Any) -> str:
    """The server's URL, once it is ready."""
    while server.poll() is None:
        log.seek(0)
        said = log.read()
        if "serving" in said and "/v1" in said:
            return said[said.index("http") : said.index("/v1") + 3]
        time.sleep(0.2)
    log.seek(0)
    sys.exit(f"the server ended: {log.read()}")


def resident(pid: int) -> float:
    """Memory of a process in MB (Linux); 0 elsewhere."""
    path = Path(f"/proc/{pid}/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if path.exists() else 0.0


if __name__ == "__main__":
    main()

"""serve.py, asked by OpenAI's own client, by plain sockets, and by people who mean no good."""

import asyncio
import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import openai
import pytest
import uvicorn
from PIL import Image

import minigpt4
from minigpt4.common import web
from minigpt4.common.ports import listening
from minigpt4.serving import ChatModel
from minigpt4.serving.openai.app import build_app
from minigpt4.serving.openai.limits import ServerSettings
from tests.support import ROOT

pytestmark = pytest.mark.integration

LIMITS = ServerSettings(
    "tiny", "secret", together=4, waiting=64, body=200_000, body_seconds=1.0, images=3, new_tokens=50
)
RED, BLUE = Image.new("RGB", (60, 60), "red"), Image.new("RGB", (60, 60), "blue")


@pytest.fixture(scope="module")
def model() -> ChatModel:
    precise = ["model.llm_precision=fp32", "model.vit_precision=fp32"]
    return minigpt4.load(ROOT / "train_configs" / "minigpt4_tiny_gemma_stage1_pretrain.yaml", "cpu", precise)


@contextmanager
def serving(model: ChatModel, limits: ServerSettings) -> Iterator[str]:
    """The address of a server."""
    with listening("127.0.0.1", 0) as sock:
        server = uvicorn.Server(uvicorn.Config(build_app(model, limits), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(model) -> Iterator[str]:
    with serving(model, LIMITS) as url:
        yield url


@pytest.fixture
def client(url) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)


def data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def user(*parts: dict | str) -> dict:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return {"role": "user", "content": content}


def post(url: str, body: object, key: str = "secret") -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}".encode()}
    return httpx.post(f"{url}/v1/chat/completions", content=content, headers=headers, timeout=60)


HELLO = {"model": "tiny", "temperature": 0, "max_tokens": 5, "messages": [user("hi")]}


def test_a_dialogue_with_images_is_answered_as_in_python(client, model) -> None:
    chat = model.start_chat()
    first = chat.ask(["from", RED, "to", BLUE, "?"], temperature=0, max_new_tokens=9)
    second = chat.ask("why?", temperature=0, max_new_tokens=9)
    messages = [user("from", image_part(data_url(RED)), "to", image_part(data_url(BLUE)), "?")]
    arguments = {"model": "tiny", "temperature": 0, "max_completion_tokens": 9}
    replied = client.chat.completions.create(messages=messages, **arguments)
    assert replied.choices[0].message.content == first
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "why?"}]
    replied = client.chat.completions.create(messages=messages, **arguments)
    assert (replied.choices[0].message.content, replied.choices[0].finish_reason) == (
        second,
        {"stop": "stop", "length": "length"}[chat.reply.finish_reason],
    )
    assert replied.usage.prompt_tokens == chat.reply.prompt_tokens
    assert replied.usage.completion_tokens == chat.reply.reply_tokens
    assert 0 < replied.usage.prompt_tokens_details.cached_tokens < replied.usage.prompt_tokens


def test_a_stream_has_the_same_text_and_ends_with_the_usage(client) -> None:
    arguments = {"model": "tiny", "messages": [user("hi")], "seed": 7, "max_tokens": 20}
    whole = client.chat.completions.create(**arguments)
    chunks = list(
        client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks[-3:-1]] == [None, whole.choices[0].finish_reason]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    raw = post(client.base_url.join("..").__str__().rstrip("/"), {**HELLO, "stream": True}).text
    assert raw.endswith("data: [DONE]\n\n")


def test_a_stop_text_ends_the_reply_before_it(client) -> None:
    arguments = {"model": "tiny", "messages": [user("hi")], "temperature": 0, "max_tokens": 30}
    whole = client.chat.completions.create(**arguments).choices[0].message.content
    stop = whole[len(whole) // 2 :][:3]
    for stream in (False, True):
        replied = client.chat.completions.create(**arguments, stop=["\0never", stop], stream=stream)
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in replied)
        else:
            text, reason = replied.choices[0].message.content, replied.choices[0].finish_reason
            assert reason == "stop"
        assert text == whole[: whole.index(stop)]


def test_what_other_servers_know_is_taken(url) -> None:
    extra = {"n": 1, "user": "me", "tools": [], "response_format": {"type": "text"}, "seed": -1, "top_k": -1}
    plain, full = (post(url, {**HELLO, **more}).json() for more in ({}, extra))
    assert plain["choices"] == full["choices"]
    system = [{"role": "developer", "content": "be brief"}, user("hi"), user("there")]
    assert post(url, {**HELLO, "messages": system}).status_code == 200


def test_models_and_health(url, client) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"] and client.models.retrieve(
        "tiny"
    ).id == "tiny"
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    for path in ("/v1/models", "/nothing"):
        answer = httpx.get(url + path)
        assert (
            answer.status_code == (401 if "models" in path else 404) and "message" in answer.json()["error"]
        )


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"model": "gpt"}, 404, "gpt"),
        ({"messages": []}, 400, "messages"),
        ({"messages": "hi"}, 400, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "role"),
        ({"messages": [user("hi"), {"role": "assistant", "content": "x"}]}, 400, "user"),
        ({"messages": [user(" ")]}, 400, "empty"),
        ({"messages": [user("x " * 40_000)]}, 400, "tokens"),
        ({"messages": [user(*[image_part(data_url(RED))] * 4)]}, 400, "4 images"),
        ({"messages": [user(image_part("data:image/png;base64,!!"))]}, 400, "base64"),
        ({"messages": [user(image_part("data:image/png;base64,AAAA"))]}, 400, "image"),
        ({"messages": [user(image_part("data:image/png;base64,AA\xe9A"))]}, 400, "base64"),
        ({"messages": [user(image_part("file:///etc/passwd"))]}, 400, "data:image"),
        ({"messages": [user(image_part("/etc/passwd"))]}, 400, "data:image"),
        ({"messages": [user(image_part("http://127.0.0.1/a.png"))]}, 400, "does not fetch image URLs"),
        ({"temperature": 9}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_new_tokens"),
        ({"n": 2}, 400, "n"),
        ({"stop": ["a"] * 5}, 400, "stop"),
        ({"logprobs": True}, 400, "logprobs"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    ],
)
def test_mistakes_are_answered_in_the_protocols_form(url, change, status, said) -> None:
    answer = post(url, {**HELLO, **change})
    error = answer.json()["error"]
    assert answer.status_code == status and said in f"{error['message']} {error['param']}"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": 1e999}'])
def test_what_is_not_a_request_is_refused(url, body) -> None:
    assert post(url, body).status_code == 400


def test_a_key_is_wanted(url) -> None:
    assert post(url, HELLO, key="wrong").status_code == 401
    assert post(url, HELLO, key="\xe9").status_code == 401


def test_too_large_and_half_open_requests_are_given_up(url) -> None:
    assert post(url, b" " * 300_000).status_code == 413
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as slow:
        slow.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        slow.settimeout(20)
        assert b" 408 " in slow.recv(1000).split(b"\r\n")[0]
    assert post(url, HELLO).status_code == 200


def test_a_client_that_leaves_frees_its_place(url, client, model) -> None:
    arguments = {
        "model": "tiny",
        "messages": [user("hi")],
        "extra_body": {"min_tokens": 50},
        "max_tokens": 50,
    }
    for _ in range(3 * LIMITS.together):
        stream = client.chat.completions.create(**arguments, stream=True)
        next(iter(stream))
        stream.close()
    end = time.monotonic() + 20
    while httpx.get(f"{url}/health").json()["running"] and time.monotonic() < end:
        time.sleep(0.05)
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_many_at_once_get_their_own_replies(client, model) -> None:
    def ask(number: int) -> bool:
        image = Image.new("RGB", (60, 60), (number * 7, 255 - number * 7, 90))
        messages = [user(image_part(data_url(image)), f"what is {number}?")]
        replied = client.chat.completions.create(
            model="tiny", messages=messages, temperature=0, max_tokens=12, timeout=60
        )
        expected = model.chat(f"what is {number}?", [image], temperature=0, max_new_tokens=12)
        return replied.choices[0].message.content == expected

    with ThreadPoolExecutor(32) as clients:
        assert all(clients.map(ask, range(32)))


def test_a_flood_is_told_to_come_again(model, monkeypatch) -> None:
    """While one reply is generated and one request waits, all others are refused."""
    limits = replace(LIMITS, api_key=None, together=1, waiting=1)
    begun, released = threading.Event(), threading.Event()
    embed = type(model.engine).embed

    def held(engine, prompts):
        begun.set()
        assert released.wait(60)
        return embed(engine, prompts)

    monkeypatch.setattr(type(model.engine), "embed", held)

    async def flood(url: str) -> tuple[list[int], list[int]]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def status() -> int:
                return (await client.post(f"{url}/v1/chat/completions", json=HELLO)).status_code

            sent = [asyncio.create_task(status())]
            assert await asyncio.to_thread(begun.wait, 60)
            sent += [asyncio.create_task(status()) for _ in range(11)]
            first = [await one for _, one in zip(range(10), asyncio.as_completed(sent), strict=False)]
            released.set()
            return first, sorted(await asyncio.gather(*sent))

    with serving(model, limits) as url:
        first, statuses = asyncio.run(flood(url))
    assert first == [429] * 10 and statuses == [200] * 2 + [429] * 10


def test_addresses_of_images_lead_to_the_internet_alone(model, monkeypatch) -> None:
    """Neither to this machine, nor by a name or a redirect that leads here."""
    secret = io.BytesIO()
    RED.save(secret, "PNG")
    asked = []

    async def inside(scope, receive, send) -> None:
        asked.append(scope.get("path"))
        headers = [(b"content-type", b"image/png")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": secret.getvalue()})

    limits = replace(LIMITS, api_key=None, image_urls=True)
    with listening("127.0.0.1", 0) as sock, serving(model, limits) as url:
        server = uvicorn.Server(uvicorn.Config(inside, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        port = sock.getsockname()[1]
        for host in (
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
            "2130706433",
            "127.1",
            "[::ffff:127.0.0.1]",
        ):
            messages = [user(image_part(f"http://{host}:{port}/a.png"), "?")]
            answer = post(url, {**HELLO, "messages": messages})
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_image_url"
        assert asked == []
        # As if this machine were the internet, an image is read.
        monkeypatch.setattr(web, "is_public", lambda address: True)
        messages = [user(image_part(f"http://127.0.0.1:{port}/a.png"), "what is this?")]
        answer = post(url, {**HELLO, "messages": messages})
        expected = model.chat("what is this?", [RED], temperature=0, max_new_tokens=5)
        assert answer.json()["choices"][0]["message"]["content"] == expected
        server.should_exit = True
        thread.join()
    assert asked == ["/a.png"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(
            (address, False)
            for address in ("127.0.0.1", "10.1.1.1", "169.254.169.254", "0.0.0.0", "224.0.0.1")
        ),
        *(
            (address, False)
            for address in ("::1", "fe80::1%eth0", "fc00::1", "::ffff:10.0.0.1", "100.64.0.1")
        ),
        *((address, False) for address in ("64:ff9b::7f00:1", "2002:7f00:1::")),
        *((address, True) for address in ("8.8.8.8", "2606:4700::1", "::ffff:8.8.8.8")),
    ],
)
def test_is_public(address, public) -> None:
    assert web.is_public(address) is public

"""The server's endpoints: /v1/models, /v1/chat/completions, /health."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from minigpt4.common.errors import DataError
from minigpt4.models.generation import GenerationSettings
from minigpt4.prompts.dialogue import Role
from minigpt4.serving.batching import Batcher
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.messages import Message
from minigpt4.serving.openai.images import image_bytes, video_bytes
from minigpt4.serving.openai.limits import ServerSettings
from minigpt4.serving.openai.protocol import (
    ApiError,
    ChatMessage,
    ChatRequest,
    Completion,
    ImagePart,
    StopText,
    TextPart,
    VideoPart,
)
from minigpt4.serving.pictures import ImageLike
from minigpt4.serving.prompt import Prompt
from minigpt4.serving.reply_engine import Asked, Full, ReplyEngine
from minigpt4.serving.videos import SeenVideo, VideoFile

# Seconds between checks whether a client is still connected.
LOOK = 0.5
# Threads that decode pictures.
READERS = 2


def build_app(model: ChatModel, settings: ServerSettings, engine: ReplyEngine | None = None) -> FastAPI:
    """The application, for uvicorn; it closes `engine`, by default a `Batcher`, at its end."""
    api = Api(model, settings, engine or Batcher(model.engine, settings.together, settings.waiting))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        api.engine.close()

    app = FastAPI(title="MiniGPT-4", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/health", api.health)
    app.add_api_route("/v1/models", api.models)
    app.add_api_route("/v1/models/{name:path}", api.one_model)
    app.add_api_route("/v1/chat/completions", api.chat, methods=["POST"])
    app.add_exception_handler(ApiError, _api_error)
    for status in (404, 405):  # unknown paths and methods
        app.add_exception_handler(status, _http_error)
    app.add_exception_handler(Exception, _fault)
    return app


class Api:
    """Handles requests.

    Args:
        model: makes the prompts.
        settings: the limits.
        engine: generates the replies.
    """

    def __init__(self, model: ChatModel, settings: ServerSettings, engine: ReplyEngine) -> None:
        self.model, self.settings, self.engine = model, settings, engine
        self.created = int(time.time())
        self._bodies = _Bodies(settings)
        # Decoding a large picture may take 2 GB, so few are decoded at once.
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="pictures")
        # Videos take longer, and pictures do not wait for them.
        self._watchers = ThreadPoolExecutor(1, thread_name_prefix="videos")

    async def health(self) -> dict[str, Any]:
        running, waiting = self.engine.load
        return {"status": "ok", "running": running, "waiting": waiting}

    async def models(self, request: Request) -> dict[str, Any]:
        self._admit(request)
        return {"object": "list", "data": [self._described()]}

    async def one_model(self, request: Request, name: str) -> dict[str, Any]:
        self._admit(request)
        self._check_name(name)
        return self._described()

    def _described(self) -> dict[str, Any]:
        name = self.settings.name
        return {"id": name, "object": "model", "created": self.created, "owned_by": "minigpt4"}

    def _admit(self, request: Request) -> None:
        key = self.settings.api_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not secrets.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")

    def _check_name(self, name: str) -> None:
        if name != self.settings.name:
            raise ApiError(
                404,
                f"unknown model {name[:200]!r} (the model is {self.settings.name!r})",
                param="model",
                code="model_not_found",
            )

    async def chat(self, request: Request) -> Response:
        self._admit(request)
        async with self._bodies.read(request) as body:
            wanted = _parsed(body)
            waiter = await self._ask(wanted)
        completion = Completion(self.settings.name)
        if wanted.stream:
            with_usage = bool(wanted.stream_options and wanted.stream_options.include_usage)
            events = _events(waiter, completion, with_usage=with_usage)
            return StreamingResponse(events, media_type="text/event-stream")
        text = ""
        try:
            async for so_far in waiter.texts():
                text = so_far
                if await request.is_disconnected():
                    break
        finally:
            waiter.leave()
        return JSONResponse(completion.whole(text, waiter.finish_reason, waiter.asked.reply))

    async def _ask(self, wanted: ChatRequest) -> "_Waiter":
        """Put a request into the engine's queue."""
        self._check_name(wanted.model)
        settings = wanted.settings(self.model.defaults, self.settings.new_tokens)
        stop, loop = StopText(wanted.stops), asyncio.get_running_loop()
        parts = (part for message in wanted.messages for part in message.parts)
        pool = self._watchers if any(isinstance(part, VideoPart) for part in parts) else self._readers
        prompt = await loop.run_in_executor(pool, self._prompt, wanted.messages)
        waiter = _Waiter(loop, prompt, settings, stop)
        try:
            self.engine.submit(waiter.asked)
        except Full as full:
            raise ApiError(429, str(full), code="rate_limit_exceeded") from full
        return waiter

    def _prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        try:
            prompt = self.model.prompt(self._said(messages))
        except DataError as error:
            raise ApiError(400, str(error), param="messages") from error
        if prompt.left_out:
            raise ApiError(
                400,
                f"the messages do not fit into the model's {self.model.model.max_context_len} tokens",
                param="messages",
                code="context_length_exceeded",
            )
        return prompt

    def _said(self, messages: Sequence[ChatMessage]) -> list[Message]:
        """Messages for the model; consecutive ones of the same role are joined."""
        limits = {"images": (ImagePart, self.settings.images), "videos": (VideoPart, self.settings.videos)}
        for name, (kind, most) in limits.items():
            count = sum(isinstance(part, kind) for message in messages for part in message.parts)
            if count > most:
                raise ApiError(400, f"{count} {name}, at most {most} allowed", param="messages")
        joined: list[tuple[Role, list[ImageLike | VideoFile | SeenVideo]]] = []
        for message in messages:
            role: Role = "system" if message.role in ("system", "developer") else message.role
            if not joined or joined[-1][0] != role:
                joined.append((role, []))
            joined[-1][1].extend(self._content(part) for part in message.parts)
        return [self.model.message(role, content) for role, content in joined]

    def _content(self, part: TextPart | ImagePart | VideoPart) -> ImageLike | VideoFile:
        if isinstance(part, TextPart):
            return part.text
        if isinstance(part, VideoPart):
            return VideoFile(video_bytes(part.video_url.url), pixels=self.settings.video_pixels)
        limits = self.settings
        return image_bytes(part.image_url.url, from_web=limits.image_urls, most=limits.body)


class _Waiter:
    """Waits, in the server's event loop, for a request in the engine's thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, prompt: Prompt, settings: GenerationSettings, stop: StopText
    ) -> None:
        self._loop, self._stop, self._news = loop, stop, asyncio.Event()
        self.asked = Asked(prompt, settings, self._notify)

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._news.set)

    @property
    def finish_reason(self) -> str:
        """As the protocol names it."""
        return "length" if self.asked.reply.finish_reason == "length" and not self._stop.found else "stop"

    async def texts(self) -> AsyncIterator[str]:
        """The text so far, at least twice a second; at the end the whole text.

        Raises:
            ApiError: if the model failed.
        """
        reply = self.asked.reply
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), LOOK)
            self._news.clear()
            ended = reply.finish_reason is not None  # before the text, which is whole then
            if self.asked.error is not None:
                raise ApiError(500, "the model could not reply", code="model_error")
            yield self._stop(reply.text, whole=ended)
            if ended or self._stop.found:
                return

    def leave(self) -> None:
        """Cancel the request."""
        self.asked.reply.stop()


async def _events(waiter: _Waiter, completion: Completion, *, with_usage: bool) -> AsyncIterator[str]:
    """Server-sent events."""
    shown = 0
    try:
        yield _event(completion.chunk({"role": "assistant", "content": ""}))
        async for text in waiter.texts():
            if len(text) > shown:
                yield _event(completion.chunk({"content": text[shown:]}))
                shown = len(text)
        yield _event(completion.chunk({}, waiter.finish_reason))
        if with_usage:
            yield _event(completion.usage_chunk(waiter.asked.reply))
    except ApiError as error:
        yield _event(error.body())
    finally:
        waiter.leave()
    yield "data: [DONE]\n\n"


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class _Bodies:
    """Reads requests, with a limit on their total size."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, which counts towards the total inside the block. Raises ApiError."""
        body = bytearray()
        try:
            await asyncio.wait_for(self._receive(request, body), self.settings.body_seconds)
            yield bytes(body)
        except asyncio.TimeoutError as error:
            raise ApiError(408, "the request did not arrive in time") from error
        finally:
            self._held -= len(body)

    async def _receive(self, request: Request, body: bytearray) -> None:
        async for piece in request.stream():
            body += piece
            self._held += len(piece)
            self._check(len(body))

    def _check(self, size: int) -> None:
        if size > self.settings.body:
            raise ApiError(413, f"the request is larger than {self.settings.body:,} bytes")
        if self._held > self.settings.bodies:
            raise ApiError(503, "the server is receiving too much data; please try again later")


def _parsed(body: bytes) -> ChatRequest:
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{place}: {first['msg']}" if place else first["msg"]
        raise ApiError(400, message, param=place or None) from error


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body(), error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    status, said = getattr(error, "status_code", 404), getattr(error, "detail", "not found")
    return await _api_error(request, ApiError(status, str(said)))


async def _fault(request: Request, error: Exception) -> Response:
    """A bug: details are only in the log."""
    return await _api_error(request, ApiError(500, "the server failed"))

"""OpenAI's chat completions: requests and responses.

Fields and errors are those of https://platform.openai.com/docs/api-reference/chat; `top_k`,
`repetition_penalty` and `min_tokens` are vLLM's. Unsupported options that would change the reply are errors,
not ignored.
"""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from minigpt4.common.errors import ConfigError
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.replies import Reply

# Stop texts of a request, and the length of each.
MAX_STOPS, MAX_STOP_LENGTH = 4, 256


class ApiError(Exception):
    """An error in the protocol's form.

    Args:
        status: HTTP status.
        message: human-readable.
        param: the invalid field.
        code: machine-readable.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class _Lenient(BaseModel):
    """Unknown fields are ignored: clients send options of other servers."""

    model_config = ConfigDict(extra="ignore")


class TextPart(_Lenient):
    """A text part of a message."""

    type: Literal["text"]
    text: str


class ImageUrl(_Lenient):
    """The URL of an image or a video."""

    url: str


class ImagePart(_Lenient):
    """An image part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoPart(_Lenient):
    """A video part of a message."""

    type: Literal["video_url"]
    video_url: ImageUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]


class ChatMessage(_Lenient):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]

    @property
    def parts(self) -> list[TextPart | ImagePart | VideoPart]:
        """The content as parts."""
        return [TextPart(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class StreamOptions(_Lenient):
    """Whether the last event has the token counts."""

    include_usage: bool = False


class ResponseFormat(_Lenient):
    """Only text."""

    type: Literal["text"]


class ChatRequest(_Lenient):
    """A chat completion request. `tools`, `user` and `store` are accepted and ignored."""

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end the reply. Raises ApiError."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > MAX_STOPS or not all(0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
            raise ApiError(
                400,
                f"stop may hold {MAX_STOPS} texts of 1 to {MAX_STOP_LENGTH} characters",
                param="stop",
            )
        return stops

    def settings(self, defaults: GenerationSettings, longest: int) -> GenerationSettings:
        """The generation settings.

        Args:
            defaults: for fields that are not set.
            longest: the server's limit of new tokens.

        Raises:
            ApiError: naming the field.
        """
        asked = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        given = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k == -1 else self.top_k,  # vLLM: off
            "repetition_penalty": self.repetition_penalty,
            "min_new_tokens": self.min_tokens,
            "seed": None if self.seed is None else self.seed % 2**63,
        }
        given = {name: value for name, value in given.items() if value is not None}
        given["max_new_tokens"] = min(longest, defaults.max_new_tokens if asked is None else asked)
        try:
            return GenerationSettings(**{**vars(defaults), **given})
        except ConfigError as error:
            raise ApiError(400, str(error)) from error


class StopText:
    """Cuts a growing text at the first stop text, and holds back a possible beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.found = False

    def __call__(self, text: str, *, whole: bool) -> str:
        """The part of `text` that can be shown. With `whole`, no more text follows."""
        places = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        if whole:
            return text
        held = (n for stop in self.stops for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return text[: len(text) - max(held, default=0)]


class Completion:
    """The response objects of one request, with the same id and time."""

    def __init__(self, model: str) -> None:
        self.model, self.id, self.created = model, f"chatcmpl-{uuid.uuid4().hex}", int(time.time())

    def whole(self, text: str, reason: str, reply: Reply) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion", [choice]) | {"usage": usage(reply)}

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._object("chat.completion.chunk", [choice])

    def usage_chunk(self, reply: Reply) -> dict[str, Any]:
        return self._object("chat.completion.chunk", []) | {"usage": usage(reply)}

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        return head | {"choices": choices}


def usage(reply: Reply) -> dict[str, Any]:
    """The token counts of a reply."""
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.reply_tokens,
        "total_tokens": reply.prompt_tokens + reply.reply_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
    }

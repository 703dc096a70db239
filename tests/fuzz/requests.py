"""What clients send to the server."""

import base64
import json
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError
from minigpt4.models.generation import GenerationSettings
from minigpt4.processors.blip_processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel
from minigpt4.serving.openai.app import Api, _parsed
from minigpt4.serving.openai.limits import ServerSettings
from minigpt4.serving.openai.protocol import ApiError
from tests.fuzz import data
from tests.support.shards import encoded, picture
from tests.support.videos import write_video


def write_request(folder: Path) -> None:
    def part(kind: str, suffix: str, content: bytes) -> dict[str, Any]:
        url = f"data:{kind}/{suffix};base64,{base64.b64encode(content).decode()}"
        return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}

    video = write_video(folder / "a.mp4", 9)
    shown = [part("image", "jpeg", encoded(picture(0))), part("video", "mp4", video.read_bytes())]
    video.unlink()
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [*shown, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A dog."},
        {"role": "user", "content": "Where?"},
    ]
    options = {"temperature": 0.5, "max_tokens": 5, "seed": 1, "stop": ["."]}
    (folder / "request.json").write_text(json.dumps({"model": "tiny", "messages": messages, **options}))


def read_request(folder: Path) -> None:
    """As the server does, up to where the reply is generated."""
    model = ChatModel(data.golden(), Blip2ImageEvalProcessor(56))
    limits = ServerSettings("tiny")
    api = Api(model, limits, None)  # type: ignore[arg-type]  # nothing is generated
    path = folder / "request.json"
    try:
        wanted = _parsed(path.read_bytes() if path.is_file() else b"")
        wanted.settings(GenerationSettings(), limits.new_tokens)
        _ = wanted.stops
        json.dumps([str(api._prompt(wanted.messages).left_out)])
    except ApiError as error:
        if error.status >= 500:
            raise
        raise DataError(str(error)) from error

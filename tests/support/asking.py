"""Requests for an engine that replies to several at once."""

import threading
from collections.abc import Sequence
from typing import Any

from PIL import Image

from minigpt4.serving import ChatModel
from minigpt4.serving.reply_engine import Asked


def ask(
    model: ChatModel, text: str, images: Sequence[Image.Image] = (), **settings: Any
) -> tuple[Asked, threading.Event]:
    """A request that has not been submitted, and an event that is set when its reply ends."""
    ended = threading.Event()
    prompt = model.prompt([model.message("user", text, images)])

    def tell() -> None:
        if asked.reply.finish_reason:
            ended.set()

    asked = Asked(prompt, model.settings(**settings), tell)
    return asked, ended

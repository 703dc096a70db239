"""Samples as LLaVA and chat services write them, as lines of this project's JSONL format."""

from collections.abc import Mapping
from typing import Any

MARK = "<image>"  # where a picture goes in a text, here as in LLaVA
SPEAKERS = {"human": "user", "gpt": "assistant"}


def as_own(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with `conversations` (LLaVA) or `messages` (OpenAI) -> one with `conversation`.

    All others are returned as they are, and so is what has another form than these two: the check of a line
    says what is wrong with it.
    """
    record = dict(record)
    if "conversations" in record and "conversation" not in record:
        turns = record.pop("conversations")
        record["conversation"] = [_of_llava(turn) for turn in turns] if isinstance(turns, list) else turns
    elif "messages" in record and "conversation" not in record and isinstance(record["messages"], list):
        images: list[Any] = []
        turns = [_of_openai(message, images) for message in record.pop("messages")]
        record["conversation"] = _without_system(turns)
        if images:
            record["image"] = images
    if "conversation" in record and "images" in record and "image" not in record:
        record["image"] = record.pop("images")
    return record


def _without_system(turns: list[Any]) -> list[Any]:
    """What the first turn tells the model stands before the first question instead."""
    if [{*turn} if isinstance(turn, dict) else None for turn in turns[:2]] != [{"system"}, {"user"}]:
        return turns
    system, user = turns[0]["system"], turns[1]["user"]
    if not isinstance(system, str) or not isinstance(user, str):
        return turns
    return [{"user": f"{system}\n{user}"}, *turns[2:]]


def _of_llava(turn: Any) -> Any:
    """`{"from": "human", "value": …}` -> `{"user": …}`."""
    if not isinstance(turn, Mapping) or {*turn} != {"from", "value"}:
        return turn
    if not isinstance(turn["from"], str) or not isinstance(turn["value"], str):
        return turn
    text = turn["value"].replace(f"{MARK}\n", f"{MARK} ").replace(f"\n{MARK}", f" {MARK}")
    return {SPEAKERS.get(turn["from"], turn["from"]): text}


def _of_openai(message: Any, images: list[Any]) -> Any:
    """`{"role": "user", "content": …}` -> `{"user": …}`; the pictures' paths are appended to `images`."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        return message
    content = message.get("content")
    if not isinstance(content, list) or not all(isinstance(part, Mapping) for part in content):
        return {message["role"]: content}
    texts = []
    for part in content:
        if part.get("type") == "text":
            texts.append(str(part.get("text")))
            continue
        shown = part.get("image_url", part.get("image", part.get("path")))
        images.append(shown.get("url") if isinstance(shown, Mapping) else shown)
        texts.append(MARK)
    return {message["role"]: " ".join(texts)}

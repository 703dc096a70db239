"""Lines of JSONL, and a file of them with two pictures beside it."""

import json
from pathlib import Path
from typing import Any

from tests.support.shards import encoded, picture

CAPTION = {"image": "a.jpg", "caption": "A dog."}
QUESTION = {"image": "a.jpg", "question": "What?", "answer": "A dog."}
TALK = [{"user": "What?"}, {"assistant": "Dog."}, {"user": "And on <image>?"}, {"assistant": "Cat."}]


def write(path: Path, *lines: Any) -> Path:
    """A file of lines (objects, or bytes as they are), and the pictures a.jpg and b.jpg beside it."""
    for number, name in enumerate("ab"):
        (path.parent / f"{name}.jpg").write_bytes(encoded(picture(number)))
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path

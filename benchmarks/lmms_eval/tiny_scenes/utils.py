"""What the task takes of a row."""

import io
from typing import Any

from PIL import Image


def pictures(row: dict[str, Any]) -> list[Image.Image]:
    """The pictures that a question is about."""
    return [Image.open(io.BytesIO(row["image"])).convert("RGB")]

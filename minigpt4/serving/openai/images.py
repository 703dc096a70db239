"""The images and videos of a request: data URLs, and for images http(s) URLs if allowed."""

import base64
import io
import re
import time
from http.client import HTTPException

from minigpt4.common.web import open_url
from minigpt4.serving.openai.protocol import ApiError

_DATA = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,", re.ASCII)
_VIDEO_DATA = re.compile(r"data:video/[a-zA-Z0-9.+-]+;base64,", re.ASCII)
# Seconds to fetch an image.
PATIENCE = 20.0
CHUNK = 1 << 16


def image_bytes(url: str, *, from_web: bool, most: int) -> bytes:
    """The content of an image URL.

    Args:
        url: of a request.
        from_web: whether http(s) URLs are fetched; only from public addresses.
        most: the largest size of a fetched image; a data URL is limited by its request.

    Raises:
        ApiError: if it is invalid, not allowed, too large or cannot be fetched.
    """
    if head := _DATA.match(url):
        return _decoded(url[head.end() :], "an image")
    if not url.lower().startswith(("http://", "https://")):
        raise _wrong("an image must be a URL data:image/...;base64,...")
    if not from_web:
        raise _wrong("this server does not fetch image URLs; please send data:image/...;base64,...")
    return _from_web(url, most)


def video_bytes(url: str) -> bytes:
    """The content of a video's data URL, limited by its request. Raises ApiError."""
    if head := _VIDEO_DATA.match(url):
        return _decoded(url[head.end() :], "a video", "invalid_video_url")
    raise _wrong("a video must be a URL data:video/...;base64,...", "invalid_video_url")


def _decoded(text: str, kind: str, code: str = "invalid_image_url") -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise _wrong(f"the data URL of {kind} is not base64: {error}", code) from error


def _from_web(url: str, most: int) -> bytes:
    data, end = io.BytesIO(), time.monotonic() + PATIENCE
    try:
        with open_url(url, public=True) as answer:
            while piece := answer.read1(CHUNK):
                data.write(piece)
                if data.tell() > most:
                    raise _wrong(f"the image is larger than {most:,} bytes")
                if time.monotonic() > end:
                    raise _wrong(f"the image did not arrive within {PATIENCE:.0f} s")
    except (OSError, HTTPException) as error:
        # Without the reason: it would tell clients about machines that they cannot reach.
        raise _wrong("the image could not be fetched") from error
    return data.getvalue()


def _wrong(message: str, code: str = "invalid_image_url") -> ApiError:
    return ApiError(400, message, param="messages", code=code)

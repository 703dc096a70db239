"""The images of requests that are fetched from the web."""

import pytest

from minigpt4.common import web
from minigpt4.serving.openai.images import image_bytes
from minigpt4.serving.openai.protocol import ApiError
from tests.support.raw_server import sending

pytestmark = pytest.mark.integration

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def fetched(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(web, "is_public", lambda address: True)
    with sending(lambda request: [answer]) as url:
        return image_bytes(url, from_web=True, most=100)


def test_image_bytes_reads_chunks(monkeypatch) -> None:
    assert fetched(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", monkeypatch) == b"abcde"


@pytest.mark.parametrize("rest", [b"zz\r\n", b"9\r\nabc", b"3\r\nabc\r\n"])
def test_image_bytes_refuses_a_broken_response(rest, monkeypatch) -> None:
    with pytest.raises(ApiError) as caught:
        fetched(CHUNKED + rest, monkeypatch)
    assert (caught.value.status, caught.value.code) == (400, "invalid_image_url")

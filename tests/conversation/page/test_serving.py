"""Who is let in, and whether the page is shared."""

import urllib.error
import urllib.request

import pytest

from minigpt4.common.ports import listening
from minigpt4.conversation.page.layout import build_page
from minigpt4.conversation.page.privacy import Uploads
from minigpt4.conversation.page.serving import Address, serving


@pytest.fixture
def serve(loader, tmp_path, monkeypatch):
    """Serves a page with these options of `Address`."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    uploads = Uploads()
    with listening("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
    return port, lambda **options: serving(
        build_page(loader, uploads), uploads, Address("127.0.0.1", port, **options)
    )


@pytest.mark.parametrize("share", [False, True])
def test_a_public_link_is_only_opened_if_asked_for(serve, monkeypatch, share) -> None:
    opened = []

    def open_link(local_host: str, local_port: int, **more: object) -> str:
        opened.append(local_port)
        return "https://example.invalid"

    monkeypatch.setattr("gradio.networking.setup_tunnel", open_link)
    port, start = serve
    with start(share=share):
        assert opened == [port] * share


def test_a_password_is_asked_for(serve) -> None:
    port, start = serve

    def status(path: str, form: str | None = None) -> int:
        try:
            data = None if form is None else form.encode()
            return urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=20).status
        except urllib.error.HTTPError as error:
            return error.code

    with start(auth=("me", "secret")):
        assert status("/config") == 401
        assert status("/login", "username=me&password=wrong") == 400
        assert status("/login", "username=me&password=secret") == 200

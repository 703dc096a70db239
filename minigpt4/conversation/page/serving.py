"""The page's server."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import gradio as gr
from fastapi.middleware import Middleware

from minigpt4.common.errors import ConfigError
from minigpt4.conversation.page import sketch
from minigpt4.conversation.page.layout import translations
from minigpt4.conversation.page.privacy import Doorkeeper, Uploads
from minigpt4.conversation.page.style import CSS, HEAD, theme

MAX_UPLOAD = "20mb"
# Visitors whose dialogues are kept; the least recently seen is forgotten first.
MOST_VISITORS = 100


@dataclass(frozen=True)
class Address:
    """Where the page is served, and for whom.

    Attributes:
        host: address to serve.
        port: 0 takes a free one.
        share: whether to open a public link through Gradio's servers.
        auth: user and password; None lets everybody in.
        browser: whether to open the page in a browser.
    """

    host: str
    port: int
    share: bool = False
    auth: tuple[str, str] | None = None
    browser: bool = False


@contextlib.contextmanager
def serving(
    page: gr.Blocks, uploads: Uploads, address: Address, language: str | None = None
) -> Iterator[None]:
    """Serve the page within the context."""
    # Gradio would keep dialogues in the browser's storage.
    os.environ.setdefault("GRADIO_RUN_HISTORY", "False")
    try:
        page.launch(
            server_name=address.host,
            server_port=address.port,
            share=address.share,
            auth=address.auth,
            inbrowser=address.browser,
            prevent_thread_lock=True,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=MOST_VISITORS,
            app_kwargs={"middleware": [Middleware(Doorkeeper, uploads=uploads)]},
            footer_links=[],
            ssr_mode=False,
            enable_monitoring=False,
            theme=theme(),
            css=CSS + sketch.CSS,
            head=HEAD + sketch.HEAD,
            i18n=translations(language),
        )
    except OSError as error:
        raise ConfigError(f"--port {address.port} on --host {address.host}: {error}") from error
    try:
        yield
    finally:
        page.close(verbose=False)

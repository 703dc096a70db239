"""The web page around a `Chat`: a dialogue, a box for text and a picture, and a few settings."""

import html
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr
import torch

from minigpt4.common.errors import UserError
from minigpt4.conversation.chat import Chat
from minigpt4.conversation.messages import Conversation
from minigpt4.processors.pictures import IMAGE_SUFFIXES, open_picture

log = logging.getLogger(__name__)

# The suffixes the browser offers.
MAX_UPLOAD = "20mb"
# Uploaded pictures are looked through every hour, and deleted when they are a day old.
DELETE_CACHE = (60 * 60, 24 * 60 * 60)
QUESTIONS = ("Describe this image in detail.", "What is in the foreground?", "Write a short poem about it.")

INTRODUCTION = """# {title}
Add a picture with the paper clip, or drop it into the box below, and ask about it.
"""
EMPTY_CHAT = "### No picture yet\nAdd one with the paper clip below, or just start to chat."


@dataclass
class Session:
    """What one visitor's dialogue consists of: the messages and the embeddings of the images."""

    conv: Conversation
    images: list[torch.Tensor] = field(default_factory=list)


def build_page(chat: Chat, title: str) -> gr.Blocks:
    """The page, ready to `launch(max_file_size=MAX_UPLOAD)`.

    One reply is generated at a time; further visitors wait in a queue.
    """
    with gr.Blocks(title=title, analytics_enabled=False, fill_height=True, delete_cache=DELETE_CACHE) as page:
        session = gr.State(_new_session(chat))
        gr.Markdown(INTRODUCTION.format(title=title))
        with gr.Row(scale=1):
            with gr.Column(scale=1, min_width=240):
                temperature, beams, restart = _settings()
            with gr.Column(scale=4):
                dialogue, box = _dialogue()

        reply = box.submit(
            partial(_reply, chat),
            [box, dialogue, session, temperature, beams],
            [dialogue, box],
            concurrency_limit=1,
            api_visibility="private",
        )
        # One after the other: what is still on its way from a reply that is being stopped must not
        # appear in the new dialogue. (The dialogue has a small button of its own that empties it.)
        for event in (restart.click, dialogue.clear):
            event(None, cancels=[reply]).then(
                lambda: (_new_session(chat), [], None),
                outputs=[session, dialogue, box],
                api_visibility="private",
            )
    return page


def _new_session(chat: Chat) -> Session:
    return Session(Conversation(chat.model.template))


def _settings() -> tuple[gr.Slider, gr.Slider, gr.Button]:
    temperature = gr.Slider(
        0,
        2,
        value=1,
        step=0.1,
        label="Temperature",
        info="0 always takes the likeliest word",
        elem_id="temperature",
    )
    beams = gr.Slider(1, 5, value=1, step=1, label="Beams", info="from 2 on, the reply comes in one piece")
    return temperature, beams, gr.Button("Restart", elem_id="restart")


def _dialogue() -> tuple[gr.Chatbot, gr.MultimodalTextbox]:
    # Plain text, because Markdown would swallow some of what models write, like "###" and "*".
    # No buttons, because they would copy `_as_html`, and share the dialogue with a third party.
    dialogue = gr.Chatbot(
        show_label=False,
        height="55vh",
        placeholder=EMPTY_CHAT,
        render_markdown=False,
        buttons=[],
        elem_id="dialogue",
    )
    box = gr.MultimodalTextbox(
        show_label=False,
        placeholder="Ask something …",
        file_types=[f".{suffix}" for suffix in IMAGE_SUFFIXES],
        max_plain_text_length=100_000,  # longer pastes would become a file
        autofocus=True,
        elem_id="box",
    )
    with gr.Row():
        for question in QUESTIONS:
            button = gr.Button(question, size="sm")
            button.click(partial(_write, question), box, box, api_visibility="private")
    return dialogue, box


def _write(question: str, typed: dict[str, Any] | None) -> dict[str, Any]:
    """Put a question into the box, beside the picture that may lie there."""
    return {**(typed or {}), "text": question}


def _reply(
    chat: Chat,
    typed: dict[str, Any],
    dialogue: list[dict[str, Any]],
    session: Session,
    temperature: float,
    beams: float,
) -> Iterator[tuple[list[dict[str, Any]], dict[str, Any] | None]]:
    """What the page shows while the reply grows: the dialogue, and the emptied box.

    The session is changed in place and given back when something fails, so that after a mistake the
    visitor goes on from where they were.
    """
    text, files = typed["text"].strip(), typed["files"]
    if not text:
        raise gr.Error("Please write a question.", print_exception=False)
    before = (session.conv.copy(), list(session.images))
    try:
        shown = [{"role": "user", "content": {"path": path}} for path in files]
        for path in files:
            chat.upload_img(open_picture(path), session.conv, session.images)
        dialogue = [*dialogue, *shown, {"role": "user", "content": _as_html(text)}]
        yield dialogue, None
        chat.ask(text, session.conv)
        answer = ""
        for piece in chat.stream_answer(
            session.conv, session.images, temperature=temperature, num_beams=int(beams)
        ):
            answer += piece
            yield [*dialogue, {"role": "assistant", "content": _as_html(answer)}], None
        if not answer:
            yield [*dialogue, {"role": "assistant", "content": "(no words)"}], None
    except Exception as error:
        session.conv, session.images = before
        if isinstance(error, UserError):
            raise gr.Error(str(error), print_exception=False) from error
        log.exception("no reply")
        raise gr.Error(f"The model could not reply ({type(error).__name__}).") from error


def _as_html(text: str) -> str:
    """Character for character: even without Markdown the page takes `<p>` (MiniGPT-v2 writes it) for HTML."""
    return html.escape(text, quote=False)

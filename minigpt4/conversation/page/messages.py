"""A dialogue as the page shows it.

What visitors write is text and what models write is Markdown, never HTML: HTML is escaped, and pictures from
elsewhere become links, so that the browser loads nothing from an address that a model names.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from minigpt4.serving import Reply


@dataclass(eq=False)
class Turn:
    """A question and its reply.

    Attributes:
        text: of the question.
        files: the paths of its pictures.
        reply: None until generation starts.
        notice: what is shown until then.
        stopped: whether the visitor has stopped the reply.
        further: questions to be offered below the reply.
    """

    text: str
    files: list[str]
    reply: "Reply | None" = None
    notice: str = ""
    stopped: bool = False
    further: list[str] = field(default_factory=list)

    def stop(self) -> None:
        """Stop its reply."""
        self.stopped = True
        if self.reply is not None:
            self.reply.stop()


def _markdown() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"])
    return reader.disable("image")


_MARKDOWN = _markdown()


def shown(turns: Sequence[Turn], labels: dict[str, str]) -> list[dict[str, Any]]:
    """Messages for a `gr.Chatbot` without Markdown: for each turn, the question and the reply."""
    messages = []
    for turn in turns:
        pictures = [{"path": path, "alt_text": labels["picture"]} for path in turn.files]
        words = [_html(html.escape(turn.text, quote=False))] * bool(turn.text)
        messages.append({"role": "user", "content": [*pictures, *words]})
        messages.append({"role": "assistant", "content": [_html(_reply(turn, labels))]})
    if turns:
        messages[-1]["options"] = _offers(turns[-1], labels)
    return messages


def _offers(turn: Turn, labels: dict[str, str]) -> list[dict[str, str]]:
    if turn.reply is None or turn.reply.finish_reason is None:
        return []
    more = [{"value": labels["go_on_question"], "label": labels["go_on"]}]
    return more * (turn.reply.finish_reason == "length") + [{"value": one} for one in turn.further]


def _html(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _reply(turn: Turn, labels: dict[str, str]) -> str:
    reply = turn.reply
    if reply is None or (reply.finish_reason is None and not reply.text):
        thinking = f'<span class="typing" role="img" aria-label="{labels["thinking"]}"></span>'
        return f'{thinking}<span class="note">{html.escape(turn.notice)}</span>' if turn.notice else thinking
    text = reply.text or (labels["no_words"] if reply.finish_reason == "stop" else "")
    # The source, for the copy button.
    written = f"<!--{quote(text)}-->{_MARKDOWN.render(text)}"
    return written + "".join(f'<p class="note">{note}</p>' for note in _notes(reply, labels))


def _notes(reply: "Reply", labels: dict[str, str]) -> list[str]:
    notes = [labels[reply.finish_reason]] if reply.finish_reason in ("length", "cancelled") else []
    return notes + [labels["left_out"].format(turns=reply.left_out)] * bool(reply.left_out)

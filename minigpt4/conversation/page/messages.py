"""A dialogue as the page shows it.

What visitors write is text and what models write is Markdown, never HTML: HTML is escaped, and pictures from
elsewhere become links, so that the browser loads nothing from an address that a model names.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markdown_it import MarkdownIt

from minigpt4.common.errors import TooLong, UserError
from minigpt4.conversation.page.videos import film
from minigpt4.processors.boxes import Colour, Phrase, split_boxes
from minigpt4.serving.videos import is_video

if TYPE_CHECKING:
    from minigpt4.serving import Reply

# Of boxes and of the words that they belong to, in turn.
COLOURS: tuple[Colour, ...] = (
    (220, 38, 38),
    (37, 99, 235),
    (22, 163, 74),
    (217, 119, 6),
    (147, 51, 234),
    (8, 145, 178),
    (219, 39, 119),
    (101, 113, 22),
)
# Stand for the phrases of a reply while it is read as Markdown; no keyboard types them.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(eq=False)
class Turn:
    """A question and its reply.

    Attributes:
        text: of the question.
        files: the paths of its pictures and videos.
        films: the frames that the model saw of its videos, as HTML; empty until they are read.
        reply: None until generation starts.
        notice: what is shown until then.
        stopped: whether the visitor has stopped the reply.
        further: questions to be offered below the reply.
        drawn: the path of the picture with the boxes of question and reply.
    """

    text: str
    files: list[str]
    films: str = ""
    reply: "Reply | None" = None
    notice: str = ""
    stopped: bool = False
    further: list[str] = field(default_factory=list)
    drawn: str | None = None

    def again(self) -> "Turn":
        """The same question without a reply."""
        return Turn(self.text, self.files, self.films, further=self.further)

    @property
    def videos(self) -> list[str]:
        return [path for path in self.files if is_video(path)]

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
        pictures = [
            {"path": path, "alt_text": labels["picture"]} for path in turn.files if path not in turn.videos
        ]
        messages.append({"role": "user", "content": [*pictures, *_question(turn)]})
        boxes = [{"path": turn.drawn, "alt_text": labels["boxes"]}] if turn.drawn else []
        messages.append({"role": "assistant", "content": [_html(_reply(turn, labels)), *boxes]})
    if turns:
        messages[-1]["options"] = _offers(turns[-1], labels)
    return messages


def explained(error: Exception, labels: dict[str, str]) -> str:
    """Why there is no reply, in the page's language; the error's own message is in English only."""
    if isinstance(error, TooLong):
        return labels["too_long"].format(room=error.room)
    if isinstance(error, UserError):
        return labels["refused"].format(error=error)
    return labels["failed"].format(error=type(error).__name__)


def _offers(turn: Turn, labels: dict[str, str]) -> list[dict[str, str]]:
    if turn.reply is None or turn.reply.finish_reason is None:
        return []
    more = [{"value": labels["go_on_question"], "label": labels["go_on"]}]
    return more * (turn.reply.finish_reason == "length") + [{"value": one} for one in turn.further]


def _question(turn: Turn) -> list[dict[str, str]]:
    words = html.escape(turn.text, quote=False)
    if turn.videos:
        films = turn.films or "".join(map(film, turn.videos))
        words = f"{_source(turn.text)}{films}{words}"
    return [_html(words)] * bool(words)


def _source(text: str) -> str:
    """What was written, for the copy button."""
    return f"<!--{quote(text)}-->"


def _html(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _reply(turn: Turn, labels: dict[str, str]) -> str:
    reply = turn.reply
    if reply is None or (reply.finish_reason is None and not reply.text):
        thinking = f'<span class="typing" role="img" title="{labels["thinking"]}"></span>'
        return f'{thinking}<span class="note">{html.escape(turn.notice)}</span>' if turn.notice else thinking
    text = reply.text or (labels["no_words"] if reply.finish_reason == "stop" else "")
    written = _rendered(text, first=len(_phrases(turn.text)))
    return _source(text) + written + "".join(f'<p class="note">{note}</p>' for note in _notes(reply, labels))


def _phrases(text: str) -> list[Phrase]:
    return [part for part in split_boxes(text) if isinstance(part, Phrase)]


def _rendered(text: str, first: int) -> str:
    """Markdown -> HTML, where phrases with boxes have the colours of `drawn`, from the `first` on."""
    phrases, source = _phrases(text), ""
    for part in split_boxes(text):
        if isinstance(part, str):
            source += part.replace(_OPEN, "").replace(_CLOSE, "")
        else:
            source += f"{_OPEN}{phrases.index(part)}{_CLOSE}"

    def coloured(found: re.Match[str]) -> str:
        place = int(found[1])
        words = phrases[place].text or " ".join(
            f"({', '.join(map(str, box))})" for box in phrases[place].boxes
        )
        return f'<span class="boxed box-{(first + place) % len(COLOURS)}">{html.escape(words)}</span>'

    return re.sub(f"{_OPEN}(\\d+){_CLOSE}", coloured, _MARKDOWN.render(source))


def _notes(reply: "Reply", labels: dict[str, str]) -> list[str]:
    notes = [labels[reply.finish_reason]] if reply.finish_reason in ("length", "cancelled") else []
    return notes + [labels["left_out"].format(turns=reply.left_out)] * bool(reply.left_out)

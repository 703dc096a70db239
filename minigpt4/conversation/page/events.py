"""The page's event handlers: each returns or yields what is to be shown."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from minigpt4.common.errors import DataError
from minigpt4.conversation.page import tasks
from minigpt4.conversation.page.examples import Example
from minigpt4.conversation.page.labels import LABELS, language_of
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.messages import Turn, shown
from minigpt4.conversation.page.privacy import Uploads, visitor_of
from minigpt4.conversation.page.visitor import Answering, Unanswered, Visitor
from minigpt4.processors.pictures import open_picture

# Replies that are generated side by side; more visitors wait in a line.
AT_ONCE = 4
# Pictures and videos of one dialogue.
MOST_PICTURES, MOST_VIDEOS = 32, 8
# Seconds that a new question waits for a stopped reply to end, before the visitor is told to wait.
ENDING = 2
# The sliders' settings, in order.
SETTINGS = ("temperature", "top_p", "max_new_tokens", "num_beams")

# What a `gr.MultimodalTextbox` holds: `text`, and `files`, a list of paths.
Typed = dict[str, Any]
Labels = dict[str, str]
Shown = Iterator[list[Any]]


@dataclass
class View:
    """What changes on the page. None leaves a component alone: a reply must not erase what is typed."""

    visitor: Visitor
    dialogue: Any = None
    box: Any = None
    status: Any = None
    unsent: Any = None

    def outputs(self) -> list[Any]:
        """For the components of the page, in its order."""
        parts = (self.dialogue, self.box, self.status, self.unsent)
        return [self.visitor, *(gr.skip() if part is None else part for part in parts)]


class Events:
    """The events of one page.

    Args:
        loader: of the model.
        uploads: which visitor uploaded which picture.
        examples: offered in an empty dialogue.
        language: of the page; None: each visitor's own.
    """

    def __init__(
        self, loader: Loader, uploads: Uploads, examples: Sequence[Example], language: str | None
    ) -> None:
        self._loader, self._uploads, self._examples, self._language = loader, uploads, examples, language
        self._answering = Answering(loader, AT_ONCE)

    def load(self, request: gr.Request, visitor: Visitor) -> Shown:
        """A page was opened: show how far the model is loaded, then its description."""
        labels = self._labels(request)
        while self._loader.model is None:
            yield View(visitor, status=self._loader.progress(labels)).outputs()
            time.sleep(0.5)
        yield View(visitor, status=self._loader.description(labels)).outputs()

    def ask(self, request: gr.Request, sent: Typed | None, visitor: Visitor, *settings: float) -> Shown:
        """Ask what was in the box, unless it was empty. Without a reply it is given back."""
        sent = sent or {}
        turn = Turn((sent.get("text") or "").strip(), list(sent.get("files") or ()))
        if turn.text or turn.files:
            yield from self._ask(request, visitor, turn, settings, sent)
        else:
            yield View(visitor).outputs()

    def ask_task(
        self,
        request: gr.Request,
        sent: Typed | None,
        visitor: Visitor,
        task: str,
        sketched: str,
        *settings: float,
    ) -> Shown:
        """As `ask`, with one of MiniGPT-v2's tasks."""
        sent, labels = sent or {}, self._labels(request)
        files = list(sent.get("files") or ())
        try:
            text = tasks.question(task, (sent.get("text") or "").strip(), sketched or "")
            if task and not files and not any(turn.files for turn in visitor.turns):
                raise tasks.Incomplete("needs_picture")
        except tasks.Incomplete as missing:
            gr.Info(labels[str(missing)], title=labels["notice"])
            yield View(visitor, unsent=sent).outputs()
            return
        yield from self.ask(request, {"text": text, "files": files}, visitor, *settings)

    def choose_task(self, request: gr.Request, task: str) -> dict[str, Any]:
        """The box says what the task needs."""
        return gr.update(placeholder=self._labels(request)[f"ask_{task}"])

    def ask_example(
        self, request: gr.Request, event: gr.SelectData, visitor: Visitor, *settings: float
    ) -> Shown:
        """An example is chosen."""
        place = _chosen_place(event.index)
        if not 0 <= place < len(self._examples):
            yield View(visitor).outputs()
            return
        example = self._examples[place]
        question, *further = example.questions
        turn = Turn(question, list(example.pictures), further=further)
        yield from self._ask(request, visitor, turn, settings)

    def ask_further(
        self, request: gr.Request, event: gr.SelectData, visitor: Visitor, *settings: float
    ) -> Shown:
        """A question offered below the last reply is chosen."""
        further = [one for turn in visitor.turns[-1:] for one in turn.further]
        question = str(event.value)
        turn = Turn(question, [], further=[one for one in further if one != question])
        yield from self._ask(request, visitor, turn, settings)

    def retry(self, request: gr.Request, visitor: Visitor, *settings: float) -> Shown:
        """Another reply to the last question is wanted."""

        def begin(labels: Labels) -> tuple[Turn, Iterator[None]]:
            if not visitor.turns:
                raise Unanswered
            steps = self._answering.retry(visitor, _chosen(settings), labels)
            return visitor.turns[-1], steps

        yield from self._grow(request, visitor, begin)

    def edit(self, request: gr.Request, event: gr.EditData, visitor: Visitor, *settings: float) -> Shown:
        """A question was changed: it is asked again, and what followed it is forgotten."""
        # A message for each question and each reply.
        place, text = _chosen_place(event.index) // 2, str(event.value).strip()

        def begin(labels: Labels) -> tuple[Turn, Iterator[None]]:
            if not 0 <= place < len(visitor.turns) or not (text or visitor.turns[place].files):
                raise Unanswered
            old, seen = visitor.undo(len(visitor.turns) - place)
            turn = replace(old.again(), text=text)
            return turn, self._answering.ask(visitor, turn, seen, _chosen(settings), labels)

        yield from self._grow(request, visitor, begin)

    def undo(self, request: gr.Request, typed: Typed | None, visitor: Visitor) -> list[Any]:
        """The last question is taken back into the box, if that is empty."""
        box = None
        if visitor.busy.acquire(timeout=ENDING):
            try:
                turn = visitor.undo()[0] if visitor.turns else None
            finally:
                visitor.busy.release()
            if turn and not (typed and (typed.get("text") or typed.get("files"))):
                box = {"text": turn.text, "files": turn.files}
        return View(visitor, shown(visitor.turns, self._labels(request)), box).outputs()

    def stop(self, visitor: Visitor) -> None:
        """Stop the current reply."""
        visitor.stop()

    def clear(self, visitor: Visitor) -> list[Any]:
        """A new dialogue begins."""
        visitor.clear()
        return View(visitor, []).outputs()

    def _labels(self, request: gr.Request) -> Labels:
        return LABELS[self._language or language_of(request.headers.get("accept-language", ""))]

    def _ask(
        self,
        request: gr.Request,
        visitor: Visitor,
        turn: Turn,
        settings: Sequence[float],
        sent: Typed | None = None,
    ) -> Shown:
        def begin(labels: Labels) -> tuple[Turn, Iterator[None]]:
            self._check(request, visitor, turn, labels)
            return turn, self._answering.ask(visitor, turn, turn.files, _chosen(settings), labels)

        yield from self._grow(request, visitor, begin, sent)

    def _check(self, request: gr.Request, visitor: Visitor, turn: Turn, labels: Labels) -> None:
        """Raises Unanswered for pictures that cannot be shown, and for videos of others."""
        turns = [*visitor.turns, turn]
        videos = sum(len(one.videos) for one in turns)
        if videos > MOST_VIDEOS:
            raise Unanswered(labels["many_videos"].format(most=MOST_VIDEOS))
        if sum(len(one.files) for one in turns) - videos > MOST_PICTURES:
            raise Unanswered(labels["many_pictures"].format(most=MOST_PICTURES))
        me = visitor_of(request.headers.get("cookie", ""))
        for path in turn.files:
            if not self._uploads.may_see(me, path):
                raise Unanswered(labels["not_yours"])
            if path in turn.videos:
                continue  # read when it is this visitor's turn: that takes longer
            try:
                open_picture(path)
            except DataError as error:
                raise Unanswered(labels["unreadable"].format(name=Path(path).name)) from error
            except OSError as error:
                raise Unanswered(labels["not_yours"]) from error

    def _grow(
        self,
        request: gr.Request,
        visitor: Visitor,
        begin: Callable[[Labels], tuple[Turn, Iterator[None]]],
        sent: Typed | None = None,
    ) -> Shown:
        """Show a reply as it grows.

        Args:
            request: the visitor's.
            visitor: whose dialogue it is.
            begin: returns the question and the steps of its reply. Raises Unanswered.
            sent: the message, returned to the box if there is no reply.
        """
        labels = self._labels(request)
        if not visitor.busy.acquire(timeout=ENDING):
            gr.Info(labels["busy"], title=labels["notice"])
            yield View(visitor, unsent=sent).outputs()
            return
        status, unsent = None, None
        try:
            turn, steps = begin(labels)
            for _ in steps:
                yield View(visitor, shown(visitor.turns, labels), _box(replying=True)).outputs()
            if turn in visitor.turns and turn.reply is not None:
                status = self._loader.description(labels, turn.reply.tokens_per_second)
                self._draw(request, visitor)
        except Unanswered as unanswered:
            if unanswered.reason:
                gr.Warning(unanswered.reason, title=labels["notice"])
            unsent = sent
        finally:
            visitor.busy.release()
        yield View(visitor, shown(visitor.turns, labels), _box(replying=False), status, unsent).outputs()

    def _draw(self, request: gr.Request, visitor: Visitor) -> None:
        """Boxes on the visitor's picture, which nobody else may see."""
        me, path = visitor_of(request.headers.get("cookie", "")), tasks.drawn(visitor.turns)
        if me and path:
            self._uploads.add(me, path)
            visitor.turns[-1].drawn = path


def _box(replying: bool) -> dict[str, Any]:
    """Show the box's button as stop or send; its content stays."""
    return gr.update(submit_btn=not replying, stop_btn=replying)


def _chosen_place(index: Any) -> int:
    """The place that the browser names; -1 if it sent something else."""
    place = index[0] if isinstance(index, (list, tuple)) and index else index
    return place if isinstance(place, int) else -1


def _chosen(settings: Sequence[float]) -> dict[str, Any]:
    whole = ("max_new_tokens", "num_beams")
    pairs = zip(SETTINGS, settings, strict=True)
    return {name: int(value) if name in whole else float(value) for name, value in pairs}

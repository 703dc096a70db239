"""The page's events without a browser: what the dialogue is when a question gets no reply."""

import re
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.conversation.page import tasks, videos
from minigpt4.conversation.page.events import MOST_VIDEOS, Events
from minigpt4.conversation.page.labels import LABELS
from minigpt4.conversation.page.loader import Loader
from minigpt4.conversation.page.messages import Turn
from minigpt4.conversation.page.privacy import Uploads
from minigpt4.conversation.page.visitor import Answering, Unanswered, Visitor
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.serving import ChatModel
from tests.support import ROOT
from tests.support.golden import build_golden_model
from tests.support.videos import write_video

pytestmark = pytest.mark.unit
SETTINGS = {"temperature": 0.0, "max_new_tokens": 3}
NO_REQUEST: Any = None  # only read for the visitor's language, and these pages have one
MY_REQUEST: Any = Namespace(headers={"cookie": "minigpt4_visitor=me"})


@pytest.fixture(scope="module")
def loader() -> Loader:
    loader = Loader()
    loader.model = ChatModel(build_golden_model().eval(), Blip2ImageEvalProcessor(image_size=56))
    return loader


@pytest.fixture
def events(loader) -> Events:
    return Events(loader, Uploads(), [], "en")


def test_retry_stopped_in_the_line_keeps_the_reply(loader) -> None:
    visitor, turn = Visitor(), Turn("what?", [])
    list(Answering(loader, at_once=1).ask(visitor, turn, [], SETTINGS, LABELS["en"]))
    steps = Answering(loader, at_once=0).retry(visitor, SETTINGS, LABELS["en"])  # which waits for ever
    assert next(steps) is next(steps) is None and visitor.turns != [turn]
    visitor.stop()
    with pytest.raises(Unanswered):
        next(steps)
    assert visitor.turns == [turn] and turn.reply is not None
    assert visitor.undo()[0] is turn and visitor._session is not None and not visitor._session.history


def test_undo_of_a_question_that_is_withdrawn_meanwhile(events) -> None:
    visitor = Visitor()
    visitor.turns = [Turn("what?", [])]
    visitor.busy.acquire()

    def withdraw() -> None:
        visitor.turns = []
        visitor.busy.release()

    threading.Timer(0.2, withdraw).start()
    _, dialogue, box, *_ = events.undo(NO_REQUEST, None, visitor)
    assert dialogue == [] and box == gr.skip()
    assert not visitor.busy.locked()


@pytest.mark.parametrize("index", [0, 7, -1, None, "x", [], [[1]], {"a": 1}])
def test_places_that_the_page_does_not_have_change_nothing(events, index) -> None:
    visitor = Visitor()
    chosen = gr.SelectData(None, {"index": index, "value": "what?"})
    edited = gr.EditData(None, {"index": index, "value": "what?", "previous_value": ""})
    for shown in (
        events.ask_example(NO_REQUEST, chosen, visitor, 0, 1, 3, 1),
        events.edit(NO_REQUEST, edited, visitor, 0, 1, 3, 1),
        events.retry(NO_REQUEST, visitor, 0, 1, 3, 1),
    ):
        assert [one[1] in ([], gr.skip()) for one in shown] == [True]
    assert not visitor.turns and not visitor.busy.locked()


@pytest.mark.parametrize(
    ("task", "text", "sketched", "asked"),
    [
        ("", "what?", "", "what?"),
        ("vqa", "what?", "0.1,0.1,0.5,0.5", "[vqa] what?"),
        ("vqa", "[refer] it", "", "[refer] it"),
        ("vqa", "[x] it", "", "[vqa] [x] it"),
        ("identify", "", "0.1,0.2,0.5,0.95", "[identify] {<10><20><50><95>}"),
        ("identify", "this? {<1><2><3><4>}", "0.1,0.2,0.5,0.9", "[identify] this? {<1><2><3><4>}"),
        ("no such task", "what?", "", "what?"),
    ],
)
def test_question_of_a_task(task, text, sketched, asked) -> None:
    assert tasks.question(task, text, sketched) == asked


@pytest.mark.parametrize("sketched", ["", "1", "1,2,3", "0.5,0.5,0.1,0.1", "nan,0,1,1", "a,b,c,d", "9" * 999])
def test_question_without_a_usable_box_is_incomplete(sketched) -> None:
    with pytest.raises(tasks.Incomplete, match="needs_box"):
        tasks.question("identify", "this?", sketched)


@pytest.mark.parametrize(("config", "count"), [("minigptv2_eval", 7), ("minigpt4_tiny_gemma_eval", 0)])
def test_only_minigpt_v2_has_tasks(config, count) -> None:
    cfg = Config(Namespace(cfg_path=str(ROOT / f"eval_configs/{config}.yaml"), options=[]))
    assert len(tasks.tasks_for(cfg.model_settings())) == count


@pytest.fixture
def asked(loader, tmp_path):
    """Asks about files of the visitor's; the messages that are told instead of a reply."""
    uploads = Uploads()
    events = Events(loader, uploads, [], "en")

    def ask(visitor: Visitor, text: str, *files: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        told: list[str] = []
        for file in files:
            uploads.add("me", str(file))
        monkeypatch.setattr(gr, "Warning", lambda message, title: told.append(message))
        sent: Any = {"text": text, "files": [str(file) for file in files]}
        list(events.ask(MY_REQUEST, sent, visitor, 0, 1, 3, 1))
        return told

    return ask


def test_a_video_stays_in_the_dialogue_once_it_was_read(asked, events, tmp_path, monkeypatch) -> None:
    """Also when its file is gone: another reply, or a changed question, is about the same frames."""
    visitor, file = Visitor(), write_video(tmp_path / "a.mkv", 16, fps=8)
    assert not asked(visitor, "what?", file, monkeypatch=monkeypatch)
    film = visitor.turns[0].films
    assert re.findall(r"<span>([\d:.]+)</span>", film)[:3] == ["0:00.1", "0:00.3", "0:00.6"]
    file.unlink()
    list(events.retry(MY_REQUEST, visitor, 0, 1, 3, 1))
    edited = gr.EditData(None, {"index": 0, "value": "who?", "previous_value": "what?"})
    list(events.edit(MY_REQUEST, edited, visitor, 0, 1, 3, 1))
    assert not asked(visitor, "and then?", monkeypatch=monkeypatch)
    assert [(turn.text, turn.films) for turn in visitor.turns] == [("who?", film), ("and then?", "")]
    assert visitor._session is not None
    first, _, last, _ = visitor._session.history
    assert len(first.images) == 8 and [int(one.pixels.float().mean()) for one in first.images][-1] == 15
    assert not last.images


def test_videos_that_cannot_be_read_or_are_too_many_are_told(asked, tmp_path, monkeypatch) -> None:
    visitor, broken = Visitor(), tmp_path / "broken <b>.webm"
    broken.write_bytes(b"no video")
    (told,) = asked(visitor, "what?", broken, monkeypatch=monkeypatch)
    assert "broken <b>.webm" in told and "\n" not in told
    assert not visitor.turns and not visitor.busy.locked()
    file = write_video(tmp_path / "a.mp4", 4)
    (told,) = asked(visitor, "what?", *[file] * (MOST_VIDEOS + 1), monkeypatch=monkeypatch)
    assert str(MOST_VIDEOS) in told and not visitor.turns
    monkeypatch.setattr(videos.ServerSettings, "video_pixels", 3 * 32 * 24)
    (told,) = asked(visitor, "what?", file, monkeypatch=monkeypatch)
    assert "a.mp4" in told and not visitor.turns


def test_boxes_are_not_drawn_on_the_picture_before_a_video(tmp_path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    turns = [Turn("what?", [str(tmp_path / "a.png")]), Turn("this? {<1><2><3><4>}", [])]
    assert tasks.drawn(turns)
    assert not tasks.drawn([turns[0], Turn("this? {<1><2><3><4>}", [str(tmp_path / "a.mp4")])])

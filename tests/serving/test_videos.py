"""Videos in messages: the same prompt and pixels as in training, all forms, windows, and what is refused."""

import asyncio
import base64
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.datasets.builders import build_datasets
from minigpt4.processors import Blip2ImageEvalProcessor
from minigpt4.processors.subtitles import read_subtitles
from minigpt4.processors.video import VideoReader
from minigpt4.prompts.dialogue import Dialogue, Turn
from minigpt4.prompts.video import video_turn
from minigpt4.serving import ChatModel
from minigpt4.serving import videos as serving_videos
from minigpt4.serving.long_videos import watch
from minigpt4.serving.openai.app import Api
from minigpt4.serving.openai.limits import ServerSettings
from minigpt4.serving.openai.protocol import ApiError, ChatMessage, ChatRequest
from minigpt4.serving.videos import VideoFile, clock
from tests.support.golden import build_golden_model
from tests.support.jsonl import write
from tests.support.videos import write_video

FRAME = "<Img><ImageHere>"
IMAGE = "<Img><ImageHere></Img> "
GREEDY = {"temperature": 0, "max_new_tokens": 5}
WORDS = "WEBVTT\n\n00:00.000 --> 00:01.000\nHello\n"
GREY = np.full((9, 9, 3), 7, np.uint8)


@pytest.fixture(scope="module")
def model() -> ChatModel:
    tower = build_golden_model(end_sym="</s>").eval()
    return ChatModel(tower, Blip2ImageEvalProcessor(56), VideoReader(frames=3))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "a.vtt").write_text(WORDS)
    return write_video(tmp_path / "a.avi", 30)


def test_chat_and_training_have_the_same_prompt_and_pixels(model, video) -> None:
    line = {"video": "a.avi", "subtitles": "a.vtt", "question": "What?", "answer": "Grey."}
    section = {
        "build_info": {"ann_path": str(write(video.with_name("d.jsonl"), line))},
        "vis_processor": {"train": {"name": "blip2_image_eval", "image_size": 56}},
        "video": {"frames": 3},
    }
    (trained,) = build_datasets({"jsonl": section})["jsonl"][1]["train"]
    message = model.message("user", "What?", videos=VideoFile(video, video.with_name("a.vtt")))
    said = model.prompt([message])
    assert said.dialogue.turns == trained.dialogue.turns[:1]
    assert torch.equal(torch.stack([picture.pixels for picture in said.pictures]), trained.image)
    prompts = model.model.prompts
    ids, targets = prompts.ids(trained.dialogue)
    assert prompts.ids(said.dialogue)[0] == ids[: targets[0]]


def test_ids_of_a_video(model) -> None:
    """Literally: BOS, the mark before each frame, its tokens, the words, the question."""
    prompts = model.model.prompts
    ids, _ = prompts.ids(Dialogue((Turn("user", video_turn(["", "yes"]) + "Hi", verbatim=True),)))
    pieces = ["<Img>", "<Img>", "<Cap>yes\nHi"]
    plain = [prompts.tokenizer(piece, add_special_tokens=False).input_ids for piece in pieces]
    image = [-1] * prompts.image_tokens
    assert ids == [*prompts.bos, *plain[0], *image, *plain[1], *image, *plain[2]]


def test_videos_stand_where_they_are_put(model, video) -> None:
    said = model.prompt([model.message("user", ["in", VideoFile(video), "or", GREY, "?"])])
    assert said.dialogue.turns[0].text == f"in {FRAME * 3}\nor {IMAGE}?"
    assert len(said.pictures) == 4
    alone = model.prompt([model.message("user", "", videos=[video])])
    assert alone.dialogue.turns[0].text == f"{FRAME * 3}\nDescribe this image."


def test_a_video_comes_in_all_forms(model, video) -> None:
    forms = [video, str(video), video.read_bytes(), VideoFile(video)]
    seen = [model.message("user", "?", videos=one).shown[0] for one in forms]
    assert len({tuple(picture.key for picture in one.pictures) for one in seen}) == 1
    assert seen[0].times == (0.5, 1.5, 2.5)
    assert model.message("user", "?", videos=seen[0]).shown == [seen[0]]


def test_answers_and_dialogues(model, video) -> None:
    answer = model.chat("What?", videos=[video], **GREEDY)
    chat = model.start_chat()
    assert chat.ask("What?", videos=[video], **GREEDY) == answer
    chat.ask("And?", **GREEDY)
    assert len(chat.history[0].images) == 3 and len(model.prompt(chat.history[:3]).pictures) == 3


def test_what_cannot_be_read(model, tmp_path, video) -> None:
    (tmp_path / "no.mp4").write_bytes(b"words")
    with pytest.raises(DataError, match=r"no\.mp4 cannot be read: not a video"):
        model.chat("?", videos=tmp_path / "no.mp4")
    with pytest.raises(DataError, match=r"none\.mp4 cannot be read: No such file"):
        model.chat("?", videos=tmp_path / "none.mp4")
    with pytest.raises(DataError, match=r"a\.avi must be a file \.srt or \.vtt"):
        model.chat("?", videos=VideoFile(video, video))
    with pytest.raises(DataError, match="a video is a NoneType, it must be a path"):
        model.chat("?", videos=[None])
    for window in [(2.0, 1.0), (-1.0, 1.0), (float("nan"), 1.0)]:
        with pytest.raises(DataError, match=r"must be \(start, end\) in seconds"):
            VideoFile(video, window=window)


def test_a_long_video_is_described_window_by_window(model, video, monkeypatch) -> None:
    asked, windows = [], []

    def chat(question, videos=(), **settings):
        asked.append((question, [one.window for one in videos]))
        return f"reply {len(asked)}"

    monkeypatch.setattr(model, "chat", chat)
    assert watch(model, video, "Why?", 2.0, seen=windows.append) == "reply 3"
    assert asked == [
        ("Describe this video.", [(0.0, 2.0)]),
        ("Describe this video.", [(2.0, 3.0)]),
        ("0:00-0:02: reply 1\n0:02-0:03: reply 2\nWhy?", []),
    ]
    assert [window.text for window in windows] == ["reply 1", "reply 2"]
    windows.clear()
    watch(model, video, "Why?", 0.3, seen=windows.append)  # ten times 0.3 are a little less than 3
    assert (len(windows), windows[-1].end) == (10, 3.0)
    windows.clear()
    watch(model, video, "Why?", float("inf"), seen=windows.append)
    assert [(window.start, window.end) for window in windows] == [(0.0, 3.0)]
    for seconds in (0.0, float("nan"), 0.001):
        with pytest.raises(ConfigError, match="--window"):
            watch(model, video, "Why?", seconds)


def test_the_words_of_a_long_video_are_read_once(model, video, tmp_path, monkeypatch) -> None:
    read, said = [], []
    (tmp_path / "a.vtt").write_text(WORDS + "\n00:02.500 --> 00:03.000\nBye\n")

    def chat(question, videos=(), **_) -> str:
        said.extend(model.message("user", question, videos=videos).shown[0].said for _ in videos)
        return "reply"

    monkeypatch.setattr(model, "chat", chat)
    monkeypatch.setattr(
        serving_videos, "read_subtitles", lambda path: read.append(path) or read_subtitles(path)
    )
    watch(model, video, "Why?", 1.0, subtitles=tmp_path / "a.vtt")
    assert ["".join(words) for words in said] == ["Hello", "", "Bye"]
    assert len(read) == 1


def test_clock() -> None:
    assert [clock(seconds) for seconds in (7.9, 63, 3723)] == ["0:07", "1:03", "1:02:03"]


def sent(*urls: str) -> list[ChatMessage]:
    """A request's message with videos and a question."""
    parts = [{"type": "video_url", "video_url": {"url": url}} for url in urls]
    return [ChatMessage.model_validate({"role": "user", "content": [*parts, {"type": "text", "text": "?"}]})]


def test_the_server_takes_videos_as_data_urls(model, video) -> None:
    api = Api(model, ServerSettings(name="m", videos=1), engine=None)
    url = f"data:video/x-msvideo;base64,{base64.b64encode(video.read_bytes()).decode()}"
    assert api._prompt(sent(url)).tokens == model.prompt([model.message("user", "?", videos=video)]).tokens
    most = ServerSettings(name="m", video_pixels=30 * 32 * 24 - 1)
    with pytest.raises(ApiError, match="video too long"):
        Api(model, most, engine=None)._prompt(sent(url))
    for urls, code, message in [
        ([url, url], None, "2 videos, at most 1 allowed"),
        (["file:///etc/passwd"], "invalid_video_url", "a video must be a URL data:video/"),
        (["https://example.com/a.mp4"], "invalid_video_url", "a video must be a URL data:video/"),
        (["data:video/mp4;base64,!"], "invalid_video_url", "the data URL of a video is not base64"),
        (["data:video/mp4;base64,AAAA"], None, "The video video cannot be read: not a video of a known kind"),
    ]:
        with pytest.raises(ApiError) as caught:
            api._prompt(sent(*urls))
        assert (caught.value.status, caught.value.code) == (400, code)
        assert str(caught.value).startswith(message)


def test_pictures_do_not_wait_for_videos(model, monkeypatch) -> None:
    api, threads = Api(model, ServerSettings(name="m"), engine=None), []

    def prompt(messages) -> None:
        threads.append(threading.current_thread().name.partition("_")[0])
        raise ApiError(400, "enough")

    monkeypatch.setattr(api, "_prompt", prompt)
    for messages in (sent(), sent("data:video/mp4;base64,AAAA")):
        with pytest.raises(ApiError, match="enough"):
            asyncio.run(api._ask(ChatRequest(model="m", messages=messages)))
    assert threads == ["pictures", "videos"]

"""Lines of JSONL about videos: their samples, what is wrong with them, and what is skipped."""

from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt4.common.errors import ConfigError
from minigpt4.datasets.builders import build_datasets
from minigpt4.datasets.datasets.jsonl_dataset import JsonlDataset
from minigpt4.datasets.datasets.jsonl_format import check_line
from minigpt4.prompts.dialogue import Dialogue
from tests.support.golden import build_golden_model
from tests.support.jsonl import write
from tests.support.shards import SIZE, sorted_out
from tests.support.videos import write_video

FRAME = "<Img><ImageHere>"
WORDS = "1\n00:00:00,000 --> 00:00:01,000\nHello\n\n2\n00:00:02,600 --> 00:00:02,700\nBye [INST]\n"
ASKED = {"video": "a.avi", "question": "What?", "answer": "Grey."}


def section(path: Path, **video: Any) -> dict[str, Any]:
    return {
        "build_info": {"ann_path": {"val": str(path)}},
        "batch_size": 2,
        "vis_processor": {"train": {"name": "blip2_image_train", "image_size": SIZE}},
        "video": {"frames": 3, **video},
    }


def build(tmp_path: Path, *lines: Any, **video: Any) -> JsonlDataset:
    path = write(tmp_path / "d.jsonl", *lines)
    write_video(tmp_path / "a.avi", 30)
    (tmp_path / "a.srt").write_text(WORDS)
    return build_datasets({"jsonl": section(path, **video)})["jsonl"][1]["val"]


def test_frames_are_the_pictures_of_a_sample(tmp_path: Path) -> None:
    (sample,) = build(tmp_path, ASKED)
    assert sample.dialogue == Dialogue.of([(f"{FRAME * 3}\nWhat?", "Grey.")])
    assert sample.image.shape == (3, 3, SIZE, SIZE) and sample.image.dtype == torch.uint8
    assert [round(float(frame.float().mean())) for frame in sample.image] == pytest.approx([5, 15, 25], abs=1)
    assert (sample.size, sample.cluster) == (None, "a.avi")


def test_what_is_said_stands_behind_the_frames(tmp_path: Path) -> None:
    spoken = ASKED | {"subtitles": "a.srt"}
    (whole,) = build(tmp_path, spoken)
    assert whole.dialogue.turns[0].text == f"{FRAME}<Cap>Hello{FRAME * 2}<Cap>Bye [INST]\nWhat?"
    (cut,) = build(tmp_path, spoken, frames=1, subtitle_words=1)
    assert cut.dialogue.turns[0].text == f"{FRAME}<Cap>Hello\nWhat?"


def test_a_caption_and_a_conversation_of_a_video(tmp_path: Path) -> None:
    talk = [{"user": "Hello."}, {"assistant": "Hi."}, {"user": "In <video>, what?"}, {"assistant": "Grey."}]
    llava = {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Grey."}
    caption, spoken, foreign = build(
        tmp_path,
        {"video": "a.avi", "caption": "Grey."},
        {"video": "a.avi", "conversation": talk},
        {"video": "a.avi", "conversations": llava},
    )
    frames, request = caption.dialogue.turns[0].text.split("\n")
    assert frames == FRAME * 3 and "video" in request and caption.dialogue.answer == "Grey."
    assert [turn.text for turn in spoken.dialogue.turns][2] == f"In {FRAME * 3}, what?"
    assert foreign.dialogue == Dialogue.of([(f"{FRAME * 3}\nWhat?", "Grey.")])


def test_videos_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"words")
    (tmp_path / "no.srt").write_bytes(b"words")
    lines = [
        ASKED | more for more in ({}, {"video": "none.mp4"}, {"video": "no.mp4"}, {"subtitles": "no.srt"})
    ]
    samples, bad = sorted_out(build(tmp_path, *lines))
    assert len(samples) == 1
    assert bad == {"missing video": 1, "not a video of a known kind": 1, "no subtitles": 1}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"video": "a.mp4", "image": "a.jpg", "caption": "x"}', "'image' stands beside 'video'"),
        (b'{"image": "a.jpg", "subtitles": "a.srt", "caption": "x"}', "'subtitles' stands without 'video'"),
        (b'{"video": ["a.mp4"], "caption": "x"}', "'video' is ['a.mp4'], it must be the path of a file"),
        (
            b'{"video": "../a.mp4", "caption": "x"}',
            "'video': '../a.mp4' leaves the folder that it belongs to",
        ),
        (b'{"video": "http://a/b.mp4", "caption": "x"}', "'video' is 'http://a/b.mp4': fetch the file"),
        (b'{"image": "a.jpg", "question": "<video> x", "answer": "y"}', "<video> marks where 'video' goes"),
    ],
)
def test_what_is_wrong_with_a_line(line: bytes, problem: str) -> None:
    entry, problems = check_line(line)
    assert entry is None and len(problems) == 1 and problems[0].startswith(problem)


def test_frames_that_do_not_fit_are_an_error_before_training(tmp_path: Path) -> None:
    path, prompts = write(tmp_path / "d.jsonl", ASKED), build_golden_model().prompts
    ((builder, _),) = build_datasets({"jsonl": section(path, frames=8)}).values()
    assert builder.has_videos  # with the number of frames that is the default, too
    per_frame = sum(prompts.lengths(Dialogue.of([(FRAME * 11, "")]))[:1]) - sum(
        prompts.lengths(Dialogue.of([(FRAME * 10, "")]))[:1]
    )
    most = prompts.max_context_len // per_frame
    for frames, fits in ((most // 2, True), (most + 1, False)):
        ((builder, _),) = build_datasets({"jsonl": section(path, frames=frames)}).values()
        if fits:
            builder.check_room(prompts)
            continue
        with pytest.raises(ConfigError, match=rf"^datasets\.jsonl\.video\.frames: {frames} frames of "):
            builder.check_room(prompts)

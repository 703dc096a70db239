"""Videos with their subtitles."""

import json
from pathlib import Path

from tests.fuzz import data
from tests.support import jsonl
from tests.support.videos import write_video

VTT = "WEBVTT\n\n00:00.000 --> 00:00.500\nHello <b>there</b>\n\n00:00.600 --> 00:01.000\n&amp; bye\n"
SRT = "1\n00:00:00,000 --> 00:00:00,500\n{\\an8}Hello\n\n2\n00:00:00,600 --> 00:00:01,000\nBye\n"
READING = {"frames": 3, "sampling": "uniform"}


def write_videos(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "subtitles").mkdir()
    names = [
        write_video(folder / "videos" / f"{suffix}.{suffix}", 9).stem for suffix in ("mp4", "webm", "avi")
    ]
    (folder / "subtitles" / "mp4.vtt").write_text(VTT)
    (folder / "videos" / "avi.srt").write_text(SRT)
    questions = [{"video_id": name, "q": "What?", "a": "A grey dog."} for name in names]
    (folder / "questions.json").write_text(json.dumps(questions))
    lines = [{"video": f"videos/{name}.{name}", "caption": "A grey dog."} for name in names]
    jsonl.write(folder / "data.jsonl", *lines, lines[-1] | {"subtitles": "videos/avi.srt"})


def read_videos(folder: Path) -> None:
    info = {"vis_root": ".", "ann_paths": ["questions.json"]}
    data.train_on("video_chatgpt", info, video=READING)
    data.train_on("jsonl", {"ann_path": "data.jsonl"}, video=READING)

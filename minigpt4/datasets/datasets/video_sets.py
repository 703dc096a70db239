"""The data sets that MiniGPT4-video is trained with, in its authors' files (Ataallah et al. 2024).

Frames, words and prompt are those of all videos here (docs/video.md).
"""

import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.errors import BadSample, DataError, reading
from minigpt4.common.files import check_inside
from minigpt4.datasets.datasets.base_dataset import BaseDataset, seen
from minigpt4.datasets.datasets.json_stream import stream_list
from minigpt4.datasets.datasets.published_sets import read_json
from minigpt4.datasets.stream import clean_text
from minigpt4.processors.subtitles import Cue, said_by_frame
from minigpt4.processors.video import SAMPLINGS, VIDEO_SUFFIXES
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.video import about_video


def find_video(root: Path, stems: Sequence[str]) -> str:
    """The path below `root` of the first video with one of these names, of any kind. Raises BadSample."""
    for stem in stems:
        _check_name(stem)
        for suffix in VIDEO_SUFFIXES:
            if os.path.isfile(root / f"{stem}.{suffix}"):
                return f"{stem}.{suffix}"
    raise BadSample("missing video")


def _check_name(name: str) -> None:
    """Raise BadSample for the name of a video that leaves its folder."""
    try:
        check_inside(name)
    except ValueError as error:
        raise BadSample("video outside its folder") from error


class CMDVideoDataset(BaseDataset):
    """Condensed Movies, cut into pictures: `vis_root/<image_id>/frame_<n>.jpg`, one for every two seconds.

    `{"image_id": "…", "caption": "…"}`; the file of words holds `{image_id: {"<second>": "words"}}`.
    """

    REQUIRED_KEYS = ("image_id", "caption")
    INSTRUCTIONS = "video_caption"
    SECONDS = 2  # from one picture to the next

    @classmethod
    def sources(cls, path: str | Path, cc_path: str | None = None, **_: Any) -> list[Path]:
        return [Path(path), *([Path(cc_path)] if cc_path else [])]

    @classmethod
    def entries(cls, path: str | Path, cc_path: str | None = None) -> Iterator[dict[str, Any]]:
        words = read_json(cc_path) if cc_path else {}
        with reading(path, DataError, failed="{} cannot be used with the file of words"):
            for entry in stream_list(path):
                yield entry | {"words": words.get(entry.get("image_id"), {})}

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        name = str(entry["image_id"])
        folder = self._folder(name)
        total = sum(file.startswith("frame_") and file.endswith(".jpg") for file in os.listdir(folder))
        places = SAMPLINGS[self.video.sampling](total, self.video.frames)
        if not places:
            raise BadSample("video without frames")
        pictures = [self.look(f"{name}/frame_{place}.jpg")[0] for place in places]
        cues = sorted((float(time), text) for time, text in entry["words"].items())
        said = said_by_frame(
            [Cue(time, time, (" ".join(text.split()),)) for time, text in cues],
            [float(place * self.SECONDS) for place in places],
            most=self.video.subtitle_words,
        )
        caption = clean_text(entry["caption"], self.text_processor, "caption")
        return Sample(
            dialogue=Dialogue.of([(about_video(said, rng.choice(self.instructions.alone)), caption)]),
            image_id=name,
            **seen(pictures),
        )

    def _folder(self, name: str) -> Path:
        _check_name(name)
        folder = self.vis_root / name
        if not folder.is_dir():
            raise BadSample("missing video")
        return folder


class WebVidDataset(BaseDataset):
    """WebVid: `{"videoid": 1, "page_dir": "…", "name": "caption"}`, of `vis_root/<page_dir>/<videoid>.mp4`.

    Args:
        subtitles_path: the folder of `<videoid>.vtt`, which some videos have; None: no subtitles are read.
    """

    REQUIRED_KEYS = ("videoid", "name", "page_dir")
    INSTRUCTIONS = "video_caption"

    def __init__(self, *args: Any, subtitles_path: str | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        self.subtitles = None if subtitles_path is None else Path(subtitles_path)

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        name = str(entry["videoid"])
        path = find_video(self.vis_root, [f"{entry['page_dir']}/{name}"])
        video = self.watch(path, subtitles_of(self.subtitles, name))
        caption = clean_text(entry["name"], self.text_processor, "caption")
        return Sample(
            dialogue=Dialogue.of([(about_video(video.said, rng.choice(self.instructions.alone)), caption)]),
            image_id=name,
            **seen(video.images),
        )


class VideoChatGPTDataset(BaseDataset):
    """VideoInstruct100K: `{"video_id": "…", "q": "…", "a": "…"}`, of `vis_root/videos` and `…/subtitles`."""

    REQUIRED_KEYS = ("video_id", "q", "a")

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        name = str(entry["video_id"])
        path = find_video(self.vis_root, [f"videos/{name}"])
        video = self.watch(path, subtitles_of(self.vis_root / "subtitles", name))
        question, answer = (clean_text(entry[key], str, key) for key in ("q", "a"))
        return Sample(
            dialogue=Dialogue.of([(about_video(video.said, question), answer)]),
            image_id=name,
            **seen(video.images),
        )


def subtitles_of(folder: Path | None, name: str) -> Path | None:
    """The file of a video's subtitles, if there is one. Raises BadSample for a name outside the folder."""
    _check_name(name)
    path = None if folder is None else folder / f"{name}.vtt"
    return path if path is not None and path.is_file() else None

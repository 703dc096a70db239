"""Questions about videos in their published formats, answered in a word or two."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from minigpt4.common.errors import DataError, reading
from minigpt4.common.files import open_regular
from minigpt4.datasets.datasets.base_dataset import BaseDataset, seen
from minigpt4.datasets.datasets.published_sets import read_json
from minigpt4.datasets.datasets.video_sets import find_video
from minigpt4.datasets.stream import clean_text
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.video import about_video

SHORT = "Based on the video, respond to this question with a short answer: {}"


class VideoQaSet(BaseDataset):
    """MSVD-QA and MSRVTT-QA (Xu et al. 2017): a list of `{"video_id": 1, "question": "…", "answer": "…"}`."""

    REQUIRED_KEYS = ("video", "question", "answer")
    # How the files of videos are called, without their suffix; the first that is there is taken.
    NAMES: ClassVar[tuple[str, ...]] = ("{}", "vid{}", "video{}")

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        content = read_json(path)
        with reading(path, DataError, failed="{} is not a list of questions about videos"):
            for one in content:
                yield {"video": one["video_id"], "question": one["question"], "answer": one["answer"]}

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        name = find_video(self.vis_root, [form.format(entry["video"]) for form in self.NAMES])
        video = self.watch(name)
        question = SHORT.format(clean_text(entry["question"], str, "question"))
        answer = clean_text(str(entry["answer"]), str, "answer")
        return Sample(
            dialogue=Dialogue.of([(about_video(video.said, question), answer)]),
            image_id=name,
            group=str(entry.get("group", "")),
            references=(answer,),
            **seen(video.images),
        )


class TgifQaSet(VideoQaSet):
    """TGIF-QA's FrameQA (Jang et al. 2017): a table with `gif_name`, `question`, `answer`, `type`."""

    TYPES: ClassVar[dict[str, str]] = {"0": "object", "1": "number", "2": "colour", "3": "location"}

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        with (
            reading(path, DataError, failed="{} is not TGIF-QA's table of FrameQA"),
            open_regular(path) as file,
        ):
            lines = file.read().decode("utf-8-sig").splitlines()
            for row in csv.DictReader(lines, delimiter="\t"):
                group = cls.TYPES.get(row.get("type") or "", "")
                asked = {"question": row["question"], "answer": row["answer"]}
                yield {"video": row["gif_name"], "group": group, **asked}


class ActivityNetQaSet(VideoQaSet):
    """ActivityNet-QA (Yu et al. 2019): questions, and the answers in a file beside them."""

    NAMES = ("v_{}", "{}")

    @classmethod
    def sources(cls, path: str | Path, **_: Any) -> list[Path]:
        return [Path(path), Path(path).with_name(Path(path).name.replace("_q.json", "_a.json"))]

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        asked_in, answered_in = cls.sources(path)
        with reading(path, DataError, failed="{} cannot be used with the answers beside it"):
            answers = {one["question_id"]: one for one in read_json(answered_in)}
            for one in read_json(asked_in):
                given = answers[one["question_id"]]
                asked = {"question": one["question"], "answer": given["answer"]}
                yield {"video": one["video_name"], "group": str(given.get("type", "")), **asked}

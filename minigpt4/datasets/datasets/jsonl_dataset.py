"""Images of your own with captions, questions or conversations, from JSONL files."""

import random
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError
from minigpt4.datasets.datasets.base_dataset import BaseDataset, seen
from minigpt4.datasets.datasets.jsonl_format import Entry, Ids, read_lines
from minigpt4.datasets.stream import clean_caption
from minigpt4.prompts.dialogue import Dialogue
from minigpt4.prompts.instruction_templates import Instructions
from minigpt4.prompts.sample import Sample
from minigpt4.prompts.templates import IMAGE_TURN
from minigpt4.prompts.video import VIDEO_MARK, about_video

SHOWN_PROBLEMS = 5
VIDEO_CAPTION = Instructions.pool("video_caption")
_NOTHING_SAID = asdict(Entry("", [], [], []))  # what is left out of stored entries
_IMAGES_BEFORE = re.compile(f"(?:{re.escape(IMAGE_TURN)})*")


class JsonlDataset(BaseDataset):
    """The project's own format; dataset/README_YOUR_DATA.md describes it.

    Args: as `BaseDataset`; `text_processor` is for captions, questions and answers stay as they are. Of
        `instructions`, those with `{}` are for questions, those without are requests for captions.

    Raises:
        DataError: for a file with a line that cannot be used. Whether the images exist is not checked.
    """

    INSTRUCTIONS = ""

    @classmethod
    def entries(cls, path: str | Path) -> Iterator[dict[str, Any]]:
        """What the lines say, and where each is. Raises DataError at the end if one cannot be used."""
        ids, problems, bad = Ids(), [], 0
        for line in read_lines(path):
            ids.add(line)
            if line.entry is not None:
                said = {key: value for key, value in asdict(line.entry).items() if value}
                yield said | {"line": f"{path}:{line.number}"}
                continue
            bad += 1
            problems += [f"{path}:{line.number}: {line.problems[0]}"] * (bad <= SHOWN_PROBLEMS)
        for number, problem in ids.repeated():
            bad += 1
            problems += [f"{path}:{number}: {problem}"] * (bad <= SHOWN_PROBLEMS)
        if bad:
            command = f"minigpt4 validate {path}"
            raise DataError(
                f"{bad} line{'s' * (bad > 1)} of {path} cannot be used (`{command}` lists all):\n  "
                + "\n  ".join(problems)
            )

    def where(self, index: int) -> str:
        return self.annotation[index]["line"]

    def sample(self, entry: dict[str, Any], rng: random.Random) -> Sample:
        entry = _NOTHING_SAID | entry
        questions, answers, candidates = entry["questions"], entry["answers"], entry["candidates"]
        if entry["kind"] == "caption":
            answers = [clean_caption(answers[0], self.text_processor)]
            candidates = [clean_caption(text, self.text_processor) for text in candidates]
        if entry["video"]:
            return self._of_video(entry, answers, candidates, rng)
        if entry["kind"] == "caption":
            request = self.instructions.ask(rng)
            questions = [request and IMAGE_TURN + request]
        elif entry["kind"] == "question":
            images = _IMAGES_BEFORE.match(questions[0])[0]  # type: ignore[index]  # it always matches
            questions = [images + self.instructions.about(questions[0][len(images) :], rng)]
        images, sizes = zip(*map(self.look, entry["images"]), strict=True)
        return Sample(
            dialogue=Dialogue.of(zip(questions, answers, strict=True)),
            size=sizes[0] if len(sizes) == 1 else None,
            image_id=entry["id"] or entry["line"],
            group=entry["group"],
            candidates=tuple(candidates),
            cluster="\n".join(entry["images"]),
            **seen(images),
        )

    def _of_video(
        self, entry: dict[str, Any], answers: list[str], candidates: list[str], rng: random.Random
    ) -> Sample:
        """The frames of a video are its pictures, before the first question or where that marks them."""
        questions: list[str] = list(entry["questions"])
        if entry["kind"] == "caption":
            questions = [self.instructions.ask(rng) or rng.choice(VIDEO_CAPTION.alone)]
        elif entry["kind"] == "question":
            questions = [self.instructions.about(questions[0], rng)]
        video = self.watch(entry["video"], entry["subtitles"] or None)
        place = next((at for at, question in enumerate(questions) if VIDEO_MARK in question), 0)
        questions[place] = about_video(video.said, questions[place])
        return Sample(
            dialogue=Dialogue.of(zip(questions, answers, strict=True)),
            image_id=entry["id"] or entry["line"],
            group=entry["group"],
            candidates=tuple(candidates),
            cluster=entry["video"],
            **seen(video.images),
        )

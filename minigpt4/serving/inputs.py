"""Inputs of batch inference: images, videos, folders, shards and lists of questions."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from minigpt4.common.errors import BadSample, ConfigError, DataError
from minigpt4.common.files import expanded, inside, open_regular
from minigpt4.datasets.datasets.jsonl_format import MARK, MAX_LINE
from minigpt4.datasets.datasets.shard_list import expand_shards, is_remote
from minigpt4.datasets.datasets.shard_reader import read_shard
from minigpt4.datasets.datasets.webdataset_stream import decode_image
from minigpt4.datasets.stream import Skipped
from minigpt4.processors.pictures import IMAGE_SUFFIXES
from minigpt4.prompts.video import VIDEO_MARK
from minigpt4.serving.pictures import ImageLike
from minigpt4.serving.videos import SUFFIXES, VideoFile, is_video

# The names of a line's fields: ours, and LLaVA's.
ID_FIELDS, QUESTION_FIELDS, IMAGE_FIELDS = ("id", "question_id"), ("question", "text"), ("image", "images")


@dataclass(frozen=True)
class Input:
    """One question.

    Attributes:
        id: of a line, its own; of an image, its path below the folder; of a sample, its key.
        content: texts, images and videos in order, as for `ChatModel.message`.
        names: of the images or the video.
        question: None if they are to be described.
        error: why the input is invalid, or None.
    """

    id: str
    content: Sequence[ImageLike | VideoFile] = ()
    names: Sequence[str] = ()
    question: str | None = None
    error: str | None = None


def read_inputs(
    sources: Sequence[str], ask: str | None = None, images: Path | None = None
) -> Iterator[Input]:
    """All questions of the sources, in order; an invalid one has an `error`.

    Args:
        sources: images, videos, folders of them or of shards, shards (as for `expand_shards`), .jsonl files
            with an object per line: `image` (a path, or a list of paths), or `video` and `subtitles`;
            `question`, `id`.
        ask: the question about each of them; in .jsonl files, for lines without one.
        images: the folder of the files that .jsonl files name; by default their own.

    Raises:
        ConfigError: for a source that does not exist or is of an unknown kind; before anything is read.
    """
    return chain.from_iterable([_read(source, ask, images) for source in sources])


def _read(source: str, ask: str | None, images: Path | None) -> Iterator[Input]:
    """The questions of one source. Whether it exists is checked right away."""
    path = Path(expanded(source))
    suffix = path.suffix[1:].lower()
    if path.is_dir() and any(_files(path)):
        return _shown(path, ask)
    if path.is_dir() and any(path.glob("*.tar")):
        return _samples(expand_shards(source, "--input"), ask)
    if path.is_dir():
        raise ConfigError(
            f"--input: the folder {path.absolute()} contains no pictures, videos or .tar shards"
        )
    if suffix == "jsonl" or _is_shown(path.name):
        if not path.is_file():
            raise ConfigError(f"--input: file not found: {path.absolute()}")
        return _lines(path, ask, images) if suffix == "jsonl" else _shown(path, ask)
    if is_remote(source) or ".tar" in source or suffix == "json":
        return _samples(expand_shards(source, "--input"), ask)
    raise ConfigError(
        f"--input is {source!r}; it must be a picture ({', '.join(IMAGE_SUFFIXES)}), a video "
        f"({', '.join(SUFFIXES)}), a folder of them, shards (.tar) or a .jsonl file"
    )


def _shown(path: Path, ask: str | None) -> Iterator[Input]:
    folder = path if path.is_dir() else path.parent
    for file in _files(path):
        name = file.relative_to(folder).as_posix()
        shown = VideoFile(file) if is_video(file) else file
        yield Input(name, [shown, *([ask] if ask else [])], [name], ask)


def _is_shown(name: str) -> bool:
    return is_video(name) or Path(name).suffix[1:].lower() in IMAGE_SUFFIXES


def _files(path: Path) -> Iterator[Path]:
    """An image or a video itself, or all of them below a folder, sorted by name."""
    if not path.is_dir():
        yield path
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            if _is_shown(name):
                yield Path(folder, name)


def _samples(shards: Sequence[str], ask: str | None) -> Iterator[Input]:
    for shard in shards:
        for sample in read_shard(shard):
            if isinstance(sample, Skipped):
                yield Input(shard, error=sample.reason)
                continue
            try:
                pixels = decode_image(sample)
            except BadSample as bad:
                yield Input(sample.key, names=[str(sample)], question=ask, error=str(bad))
            else:
                yield Input(sample.key, [pixels, *([ask] if ask else [])], [str(sample)], ask)


def _lines(path: Path, ask: str | None, images: Path | None) -> Iterator[Input]:
    number = 0
    with open_regular(path) as stream:
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise DataError(f"{path}, line {number} is longer than {MAX_LINE} bytes")
            if line.strip():
                yield _question(line, f"{path.name}:{number}", ask, images or path.parent)


def _question(line: bytes, place: str, ask: str | None, folder: Path) -> Input:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return Input(place, error="the line is not JSON")
    if not isinstance(fields, dict):
        return Input(place, error="the line is not a JSON object")
    name = str(_field(fields, ID_FIELDS, place))
    question, shown = _field(fields, QUESTION_FIELDS, ask), _field(fields, (*IMAGE_FIELDS, "video"), [])
    names = [shown] if isinstance(shown, str) else shown
    if not isinstance(question, str | None) or not isinstance(names, list):
        return Input(name, error="`question` must be a text, `image` a path or a list of paths")
    try:
        if "video" in fields:
            content = _interleaved(question, [_video(fields, folder)], VIDEO_MARK)
        else:
            content = _interleaved(question, [inside(folder, image) for image in names], MARK)
    except (ValueError, DataError) as error:
        return Input(name, names=[str(image) for image in names], question=question, error=str(error))
    return Input(name, content, names, question)


def _field(fields: dict[str, Any], names: Sequence[str], default: Any) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), default)


def _video(fields: dict[str, Any], folder: Path) -> VideoFile:
    names = [fields["video"], *([fields["subtitles"]] if fields.get("subtitles") is not None else [])]
    if "image" in fields or not all(isinstance(name, str) for name in names):
        raise DataError("`video` must be a path, one in a line, without `image`; and so must `subtitles`")
    video, *subtitles = (inside(folder, name) for name in names)
    return VideoFile(video, subtitles[0] if subtitles else None)


def _interleaved(
    question: str | None, shown: Sequence[Path | VideoFile], mark: str
) -> list[ImageLike | VideoFile]:
    """Images or a video in the places that the question marks, otherwise before it."""
    texts = (question or "").split(mark)
    if len(texts) == 1:
        return [*shown, *([question] if question else [])]
    if len(texts) - 1 != len(shown):
        what = "images" if mark == MARK else "video"
        raise DataError(f"the question has {len(texts) - 1} {mark} for {len(shown)} {what}")
    content: list[ImageLike | VideoFile] = []
    for text, one in zip(texts, [*shown, None], strict=True):
        content += [text.strip()] * bool(text.strip())
        content += [] if one is None else [one]
    return content

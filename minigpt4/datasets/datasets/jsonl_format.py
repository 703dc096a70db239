"""The JSONL format: what a line can say, and what is wrong with a line that says something else.

The command that checks a file and the data set that trains on it both use this module. The format is
described in dataset/README_YOUR_DATA.md.
"""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from minigpt4.common.errors import DataError, nearest
from minigpt4.common.files import check_inside, open_regular
from minigpt4.datasets.datasets.foreign_lines import MARK, as_own
from minigpt4.prompts.templates import IMAGE_PLACEHOLDER, IMAGE_TURN
from minigpt4.prompts.video import VIDEO_MARK

# Keys of others' files -> what to write here.
ELSEWHERE = {
    "images": 'write "image": ["…", …]',
    "videos": 'write "video": "…", one in a line',
    "text": 'write "caption": "…"',
}
KINDS = ("caption", "question", "conversation")
KEYS = (
    *("image", "video", "subtitles", "caption", "question", "answer", "conversation", "candidates"),
    *("id", "group"),
)
ROLES = ("user", "assistant")
# A longer line is not a sample, but a file without line ends.
MAX_LINE = 16 * 2**20


@dataclass(slots=True)
class Entry:
    """What a good line says.

    Attributes:
        kind: `caption`, `question` or `conversation`.
        images: the pictures' paths below their folder.
        questions: what the user says in each turn, with IMAGE_PLACEHOLDER where a picture goes; None for a
            caption, which answers whatever request the model is configured with.
        answers: the reply to each.
        candidates: what an evaluation chooses the answer from; empty: anything.
        id, group: as given, or empty.
        video, subtitles: their paths in place of pictures, or empty.
    """

    kind: str
    images: list[str]
    questions: list[str | None]
    answers: list[str]
    candidates: list[str] = field(default_factory=list)
    id: str = ""
    group: str = ""
    video: str = ""
    subtitles: str = ""


@dataclass(slots=True)
class Line:
    """A line of a file: `number` from 1, `offset` in bytes, and an entry or what is wrong."""

    number: int
    offset: int
    entry: Entry | None
    problems: list[str] = field(default_factory=list)


def read_lines(path: str | Path) -> Iterator[Line]:
    """Every line of a file, checked. Empty lines at its end do not count.

    Raises:
        DataError: if it does not exist or cannot be read.
    """
    try:
        with open_regular(path) as stream:
            yield from _read_lines(stream)
    except FileNotFoundError as error:
        raise DataError(f"file not found: {path}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _read_lines(stream: Any) -> Iterator[Line]:
    empty: list[Line] = []
    number = offset = 0
    while text := stream.readline(MAX_LINE):
        number += 1
        start, offset = offset, offset + len(text)
        if len(text) == MAX_LINE and not text.endswith(b"\n"):
            while rest := stream.readline(MAX_LINE):
                offset += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield Line(number, start, None, [f"is longer than {MAX_LINE // 2**20} MB: is it one sample?"])
            continue
        if number == 1 and text.startswith(b"\xef\xbb\xbf"):  # the byte-order mark of Windows' editors
            start, text = 3, text[3:]
        if not text.strip():
            empty.append(Line(number, start, None, ["is empty: please remove it"]))
            continue
        yield from empty
        empty = []
        yield Line(number, start, *check_line(text))


def _instead(key: str) -> str:
    return f": {ELSEWHERE[key]}" if key in ELSEWHERE else nearest(key, KEYS)


def check_line(text: bytes) -> tuple[Entry | None, list[str]]:
    """A line -> its entry, or None and everything that is wrong with it."""
    try:
        # Without its end, after which a column would count from the next line.
        record = json.loads(text.decode("utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return None, [f"is not UTF-8: byte {text[error.start]:#04x} at column {error.start + 1}"]
    except json.JSONDecodeError as error:
        return None, [f"is not JSON: {error.msg} at column {error.colno}"]
    except (ValueError, RecursionError) as error:
        return None, [f"is not JSON: {error}"]
    if not isinstance(record, dict):
        return None, [f'is {_shown(record)}, it must be an object like {{"image": …, "caption": …}}']
    record = as_own(record)
    problems = [
        f"{key!r} is not a key of this format{_instead(key)} (known: {', '.join(KEYS)})"
        for key in record
        if key not in KEYS
    ]
    video, subtitles = (_file(record, key, problems) for key in ("video", "subtitles"))
    images = [] if "video" in record else _images(record, problems)
    for key, other in {"image": "video" in record, "subtitles": "video" not in record}.items():
        if key in record and other:
            beside = "beside 'video'" if key == "image" else "without 'video'"
            problems.append(f"{key!r} stands {beside}")
    kind, turns = _turns(record, problems)
    if kind == "caption" and len(images) > 1:
        problems.append(f"a caption is of one picture, here are {len(images)}: ask a question about them")
    _check_marks(turns, len(images), problems)
    if sum((question or "").count(VIDEO_MARK) for question, _ in turns) > ("video" in record):
        problems.append(f"{VIDEO_MARK} marks where 'video' goes: once at most, and only where there is one")
    candidates = _candidates(record, kind, turns, problems)
    for key, kinds in {"id": (str, int), "group": (str,)}.items():
        if key in record and (not isinstance(record[key], kinds) or isinstance(record[key], bool)):
            or_number = " or a whole number" if int in kinds else ""
            problems.append(f"{key!r} is {_shown(record[key])}, it must be text{or_number}")
        elif isinstance(record.get(key), str):
            _check_text(record[key], repr(key), problems)
    if problems:
        return None, problems
    questions = _with_placeholders([question for question, _ in turns], len(images))
    answers = [answer for _, answer in turns]
    name, group = str(record.get("id", "")), record.get("group", "")
    return Entry(kind, images, questions, answers, candidates, name, group, video, subtitles), []


def _images(record: dict[str, Any], problems: list[str]) -> list[str]:
    """The pictures' paths."""
    if "image" not in record:
        known = f" (it has {', '.join(map(repr, record))})" if record else ""
        problems.append(f"'image' is missing: the path of a picture, or a list of them{known}")
        return []
    value = record["image"]
    names = value if isinstance(value, list) else [value]
    if not names:
        problems.append("'image' is an empty list, it must name at least one picture")
    for name in names:
        _check_path(name, "image", "the path of a picture", problems)
    return names


def _file(record: dict[str, Any], key: str, problems: list[str]) -> str:
    """The path under a key that holds one, or empty."""
    if key in record:
        _check_path(record[key], key, "the path of a file", problems)
    return record.get(key, "")


def _check_path(name: Any, key: str, wanted: str, problems: list[str]) -> None:
    if not isinstance(name, str) or not name.strip():
        problems.append(f"{key!r} is {_shown(name)}, it must be {wanted}")
    elif name.startswith("data:"):
        problems.append(f"{key!r} is {_shown(name)}: write the picture to a file, and give its path")
    elif "://" in name:
        noun = "picture" if key == "image" else "file"
        problems.append(f"{key!r} is {_shown(name)}: fetch the {noun}, and give its path")
    elif "\\" in name and ":" not in name and not name.startswith("\\") and ".." not in name:
        problems.append(f"{key!r} is {_shown(name)}: write / between folders, which works everywhere")
    elif _check_text(name, repr(key), problems):
        try:
            check_inside(name)
        except ValueError as error:
            problems.append(f"{key!r}: {error}: give a path relative to it")


def _turns(record: dict[str, Any], problems: list[str]) -> tuple[str, list[tuple[str | None, str]]]:
    """The kind of line, and its (question, answer) pairs."""
    kinds = [kind for kind in KINDS if kind in record]
    if not kinds and "answer" in record:
        kinds = ["question"]
    if not kinds:
        problems.append("no text: give 'caption', or 'question' and 'answer', or 'conversation'")
        return "", []
    kind = kinds[0]
    wanted = {"question": ("question", "answer")}.get(kind, (kind,))
    extra = [key for key in (*KINDS, "answer") if key in record and key not in wanted]
    if extra:
        also = ", ".join(map(repr, extra))
        problems.append(f"{kind!r} stands beside {also}: a line is a caption, a question or a conversation")
    for key in wanted:
        if key not in record:
            problems.append(f"{key!r} is missing beside {wanted[wanted[0] == key]!r}")
    if any(key not in record for key in wanted):
        return kind, []
    if kind == "conversation":
        return kind, _conversation(record[kind], problems)
    good = [_check_text(record[key], repr(key), problems) for key in wanted]
    question = None if kind == "caption" else record[wanted[0]]
    return kind, [(question, record[wanted[-1]])] if all(good) else []


def _conversation(turns: Any, problems: list[str]) -> list[tuple[str | None, str]]:
    """Turns of user and assistant -> (question, answer) pairs."""
    if not isinstance(turns, list) or not turns:
        problems.append(f"'conversation' is {_shown(turns)}, it must be a list of turns")
        return []
    before = len(problems)
    texts = []
    for number, turn in enumerate(turns):
        role = ROLES[number % 2]
        where = f"turn {number + 1} of 'conversation'"
        if not isinstance(turn, dict) or len(turn) != 1:
            problems.append(f'{where} is {_shown(turn)}, it must be {{"{role}": "…"}}')
        elif role not in turn:
            (found,) = turn
            problems.append(f"{where} is {found!r}, it must be {role!r}: user first, then assistant, in turn")
        elif _check_text(turn[role], f"{role!r} in turn {number + 1}", problems):
            texts.append(turn[role])
    if len(turns) % 2 and len(problems) == before:
        problems.append("'conversation' ends with 'user', it must end with the 'assistant' who replies")
    if len(problems) > before:
        return []
    return list(zip(texts[::2], texts[1::2], strict=True))


def _candidates(
    record: dict[str, Any], kind: str, turns: list[tuple[str | None, str]], problems: list[str]
) -> list[str]:
    """The answers to choose from, the right one among them; spaces and case make no difference."""
    if "candidates" not in record:
        return []
    found = record["candidates"]
    if kind == "conversation":
        problems.append("'candidates' stands beside 'conversation', it belongs to a caption or a question")
    elif not isinstance(found, list):
        problems.append(f"'candidates' is {_shown(found)}, it must be a list of texts")
    elif all(_check_text(text, "one of 'candidates'", problems) for text in found):
        if len({" ".join(text.lower().split()) for text in found}) < len(found):
            problems.append("'candidates' holds a text twice, but for spaces and case")
        elif turns and turns[0][1] not in found:
            problems.append(f"'candidates' lacks the right one, {_shown(turns[0][1])}")
        return found
    return []


def _check_text(value: Any, name: str, problems: list[str]) -> bool:
    """Whether a value is text that says something."""
    if not isinstance(value, str):
        problems.append(f"{name} is {_shown(value)}, it must be text")
    elif not value.strip():
        problems.append(f"{name} is empty")
    elif IMAGE_PLACEHOLDER in value:
        problems.append(f"{name} holds {IMAGE_PLACEHOLDER}, the model's placeholder: write {MARK} instead")
    elif not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        problems.append(f"{name} holds half of a character (a lone surrogate): {_shown(value)}")
    else:
        return True
    return False


def _check_marks(turns: list[tuple[str | None, str]], images: int, problems: list[str]) -> None:
    """Either all pictures are marked or none, and only in what the user says."""
    if any(MARK in answer for _, answer in turns):
        problems.append(f"{MARK} is in a caption or an answer, only what the user says can hold one")
    marks = sum((question or "").count(MARK) for question, _ in turns)
    if marks and marks != images:
        problems.append(f"{MARK} occurs {marks} times, but 'image' names {images}: mark each once, or none")


def _with_placeholders(questions: list[str | None], images: int) -> list[str | None]:
    """Marks become the model's placeholders; without marks, all pictures go before the first question."""
    if questions[0] is not None and not any(MARK in (question or "") for question in questions):
        questions = [IMAGE_TURN * images + questions[0], *questions[1:]]
    return [question and question.replace(MARK, IMAGE_TURN.rstrip()) for question in questions]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


class Ids:
    """Finds repeated ids, keeping 8 bytes per id: its hash."""

    def __init__(self) -> None:
        self._hashes, self._numbers = array("q"), array("q")

    def add(self, line: Line) -> None:
        if line.entry is not None and line.entry.id:
            self._hashes.append(hash(line.entry.id))
            self._numbers.append(line.number)

    def repeated(self) -> Iterator[tuple[int, str]]:
        """Each line that repeats an earlier id, and what is wrong with it; in order of the lines."""
        if not self._hashes:
            return
        _, first, inverse = np.unique(
            np.frombuffer(self._hashes, np.int64), return_index=True, return_inverse=True
        )
        for row in np.flatnonzero(first[inverse] != np.arange(len(inverse))):
            yield self._numbers[row], f"its 'id' is that of line {self._numbers[first[inverse[row]]]}"

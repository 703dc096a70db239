"""Batch inference, and a resumable file of answers."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from minigpt4.common.errors import DataError
from minigpt4.common.files import replacing
from minigpt4.models.generation import GenerationSettings
from minigpt4.serving.chat_model import ChatModel
from minigpt4.serving.inputs import Input
from minigpt4.serving.prompt import Prompt

log = logging.getLogger(__name__)

# Threads that read pictures while the model works.
READERS = 2


def answer(
    model: ChatModel, inputs: Iterable[tuple[int, Input]], batch_size: int, settings: GenerationSettings
) -> Iterator[list[dict[str, Any]]]:
    """Records of numbered questions, per batch, in order. The next batch's pictures are read meanwhile.

    A record has `index`, `id`, `images`, `question`, and either `answer`, `finish_reason` and `tokens`, or
    `error`: a bad question does not affect the others.
    """
    numbered = iter(inputs)
    with ThreadPoolExecutor(READERS) as readers:

        def begin() -> list[tuple[int, Input, "Future[Prompt]"]]:
            batch = islice(numbered, batch_size)
            return [(index, one, readers.submit(_prompt, model, one)) for index, one in batch]

        waiting = begin()
        while waiting:
            batch, waiting = waiting, begin()
            yield _answer_batch(model, batch, settings)


def _prompt(model: ChatModel, one: Input) -> Prompt:
    if one.error is not None:
        raise DataError(one.error)
    return model.prompt([model.message("user", list(one.content))])


def _answer_batch(
    model: ChatModel, batch: list[tuple[int, Input, "Future[Prompt]"]], settings: GenerationSettings
) -> list[dict[str, Any]]:
    records, prompts = [], []
    for index, one, future in batch:
        record = {"index": index, "id": one.id, "images": list(one.names), "question": one.question}
        try:
            prompts.append((record, future.result()))
        except DataError as error:
            record["error"] = str(error)
        records.append(record)
    replies = model.engine.replies([prompt for _, prompt in prompts], [settings] * len(prompts))
    for (record, _), reply in zip(prompts, replies, strict=True):
        record |= {"answer": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.reply_tokens}
    return records


class AnswerFile:
    """A JSONL file that grows as `PATH.part`, and is renamed to PATH once it is complete.

    Its first line holds the config, inputs and settings. A file made with others is not continued.

    Args:
        path: of the complete file.
        made: this first line, in JSON's types.

    Attributes:
        done: number of records written so far.
        complete: whether it has all records.

    Raises:
        DataError: if the existing file was made with others.
    """

    def __init__(self, path: Path, made: dict[str, Any]) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        self.complete = path.exists()
        self.done = 0
        there = path if self.complete else self.part
        if not there.exists():
            self.part.write_bytes(_line(made))
            return
        with there.open("rb") as file:
            _check_made(file.readline(), made, there)
            size = file.tell()
            for line in file:
                if line.endswith(b"\n"):  # a kill may have cut the last one
                    size, self.done = size + len(line), self.done + 1
        if not self.complete:
            os.truncate(self.part, size)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records."""
        with self.part.open("ab") as file:
            file.write(b"".join(map(_line, records)))

    def finish(self) -> None:
        """Give the complete file its name."""
        with self.part.open("rb+") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)
        self.complete = True


def merge(paths: Sequence[Path], out: Path, made: dict[str, Any]) -> dict[str, int]:
    """Make one file of the answer files of all shares, in the order of the questions.

    Returns:
        How many `records` it has, and how many of them are `errors`.

    Raises:
        DataError: if a file was made with another config, input or settings, or records are missing.
    """
    counts = {"records": 0, "errors": 0}
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        for file, path in zip(files, paths, strict=True):
            _check_made(file.readline(), made, path)
        merged = stack.enter_context(replacing(out)).open("wb")
        stack.enter_context(merged)
        while line := files[counts["records"] % len(files)].readline():
            record = json.loads(line)
            if record["index"] != counts["records"]:
                raise DataError(f"{out}: the answer to question {counts['records']} is missing")
            counts["records"] += 1
            counts["errors"] += "error" in record
            merged.write(line)
        if any(file.readline() for file in files):
            raise DataError(f"{out}: the answer to question {counts['records']} is missing")
    return counts


def _check_made(line: bytes, made: dict[str, Any], path: Path) -> None:
    if line != _line(made):
        raise DataError(
            f"--output: {path} was made with another config, input or settings; remove it to start over, or "
            "repeat that command to finish it"
        )


def _line(record: dict[str, Any]) -> bytes:
    # A name that is not UTF-8 comes from the system with half characters, which only ASCII can spell.
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"

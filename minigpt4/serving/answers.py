"""Many questions answered side by side, and a file of answers that is resumed where it stopped."""

import json
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
    """Records of numbered questions, a list per batch, in order; meanwhile the next one's pictures are read.

    A record has `index`, `id`, `images`, `question`, and either `answer`, `finish_reason` and `tokens`, or
    `error`: one bad question does not end the others.
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

    The first line of the part says how its records were made; a part that was made otherwise is not resumed.

    Args:
        path: of the complete file.
        made: how, in JSON's types.

    Attributes:
        done: records that an earlier run left.

    Raises:
        DataError: if PATH is there already, or a part that was made otherwise.
    """

    def __init__(self, path: Path, made: dict[str, Any]) -> None:
        self.path, self.part = path, path.with_name(f"{path.name}.part")
        if path.exists():
            raise DataError(f"--output: {path} is complete; name another file, or remove it to begin anew")
        head = _line({"made": made})
        if self.part.exists():
            lines = self.part.read_bytes().splitlines(keepends=True)
            whole = [line for line in lines if line.endswith(b"\n")]
            if not whole or whole[0] != head:
                raise DataError(
                    f"--output: {self.part} was begun with another config, input or settings; remove it "
                    "to begin anew, or repeat that command to finish it"
                )
            self.done = len(whole) - 1
            with self.part.open("rb+") as file:  # a kill may have cut the last line
                file.truncate(sum(map(len, whole)))
        else:
            self.done = 0
            self.part.write_bytes(head)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Append records."""
        with self.part.open("ab") as file:
            file.write(b"".join(map(_line, records)))

    def finish(self) -> dict[str, int]:
        """Put the complete file in place; how many records it has, and how many of them are errors."""
        counts = {"records": 0, "errors": 0}
        with self.part.open("rb") as part, replacing(self.path) as temporary, temporary.open("wb") as file:
            for line in islice(part, 1, None):
                counts["records"] += 1
                counts["errors"] += "error" in json.loads(line)
                file.write(line)
        self.part.unlink()
        return counts


def _line(record: dict[str, Any]) -> bytes:
    # A name that is not UTF-8 comes from the system with half characters, which only ASCII can spell.
    try:
        return json.dumps(record, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record).encode() + b"\n"

"""What a run logs: lines for people, JSON lines for programs."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from minigpt4.common import launch
from minigpt4.common.files import replacing
from minigpt4.common.formatting import format_count

log = logging.getLogger(__name__)

# Libraries that announce every file they open, or a bar for every model they load.
QUIET = ("httpx", "httpcore", "huggingface_hub", "matplotlib", "PIL", "accelerate", "filelock")


def setup_logger() -> None:
    """Log to the console; processes other than the first only log errors."""
    logging.basicConfig(
        level=logging.ERROR if launch.rank() else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of prompts that are too long, which we refuse or shorten.
    logging.getLogger("transformers.tokenization_utils_base").setLevel(logging.ERROR)
    if not sys.stderr.isatty():  # bars would fill a log
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for programs and people, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(to_json(content, indent=2))


class JsonLines:
    """Appends one JSON object with a `step` per line; each is on its way to the disk when `write` returns."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, **record: Any) -> None:
        """Append a record, completely or not at all.

        Raises:
            OSError: if it does not fit on the disk. The file is as it was.
        """
        line = to_json(record)
        # Unbuffered: a buffer that does not fit on the disk would be tried again when the file is closed.
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                while line:  # a disk that is nearly full takes a part of it
                    line = line[file.write(line) :]
            except OSError as error:
                file.truncate(end)
                error.filename = str(self.path)
                raise

    def read(self) -> list[dict[str, Any]]:
        """All records so far, without lines that are damaged and a last one that a power cut has torn."""
        return self._read()[0]

    def drop_after(self, step: int) -> None:
        """Remove the records of later steps, and a torn last line: the run is resumed after `step`.

        Damaged lines are moved to `NAME.damaged`.
        """
        if not self.path.exists():
            return
        records, damaged = self._read()
        if damaged:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            with aside.open("ab") as file:
                file.writelines(line + b"\n" for line in damaged)
            log.warning("%s: %s moved to %s", self.path, format_count(len(damaged), "damaged line"), aside)
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(to_json(record) for record in records if record["step"] <= step))

    def _read(self) -> tuple[list[dict[str, Any]], list[bytes]]:
        """The records, and the damaged lines."""
        # Split at newlines only: str.splitlines() would also split at rarer line ends, inside of texts.
        *lines, last = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        found = [(line, _record(line)) for line in lines]
        # What does not end in a newline has lost the end of its record, or nothing but the newline.
        records = [record for _, record in (*found, (last, _record(last))) if record is not None]
        return records, [line for line, record in found if record is None and line.strip()]


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and type(record.get("step")) is int else None


def to_json(content: dict[str, Any], indent: int | None = None) -> bytes:
    """An object as JSON, with a line end."""
    # Names of files that are not UTF-8 have halves of characters in Python, which JSON can write as escapes.
    return json.dumps(content, indent=indent, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"

"""What a run logs: lines for people, JSON lines for programs."""

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

from minigpt4.common import launch
from minigpt4.common.errors import UserError
from minigpt4.common.files import replacing

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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for programs and people, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


class JsonLines:
    """Appends one JSON object per line; each line is on its way to the disk when `write` returns."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, **record: Any) -> None:
        """Append a record, completely or not at all.

        Raises:
            OSError: if it does not fit on the disk. The file is as it was.
        """
        line = _line(record)
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
        """All records so far. A last line that a power cut has torn is skipped.

        Raises:
            UserError: if any other line is not JSON.
        """
        # Split at newlines only: str.splitlines() would also split at rarer line ends, inside of texts.
        *lines, last = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise UserError(f"{self.path}, line {number} is not JSON, delete it: {error}") from error
        # What does not end in a newline has lost the end of its record, or nothing but the newline.
        with contextlib.suppress(ValueError):
            records.append(json.loads(last))
        return records

    def drop_after(self, step: int) -> None:
        """Remove the records of later steps, and a torn last line: the run is resumed after `step`."""
        if not self.path.exists():
            return
        kept = [record for record in self.read() if record["step"] <= step]
        with replacing(self.path) as temporary:
            temporary.write_bytes(b"".join(map(_line, kept)))


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"

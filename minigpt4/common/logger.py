"""What a run says while it works: lines for people, JSON lines for programs."""

import json
import logging
from pathlib import Path
from typing import Any

# Libraries that announce every file they open, or a bar for every model they load.
QUIET = ("httpx", "httpcore", "huggingface_hub", "matplotlib", "PIL", "accelerate", "filelock")


def setup_logger(is_main: bool = True) -> None:
    """Log to the console; processes other than the main one only speak of warnings."""
    logging.basicConfig(
        level=logging.INFO if is_main else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON for programs and people, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)


class JsonLines:
    """Appends one JSON object a line; each line is on its way to the disk when `write` returns."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, **record: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All records so far."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

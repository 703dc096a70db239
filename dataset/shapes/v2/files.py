"""How annotations are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_json(file: Path, content: Any) -> None:
    """Writes a JSON file and the folders it is in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")

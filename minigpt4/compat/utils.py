"""Small helpers of the original's `minigpt4.common.utils`."""

import os
import re
from datetime import datetime

from minigpt4.common.registry import registry


def now() -> str:
    """The time, for names of folders: year, month, day, hour, and the first digit of the minute."""
    return datetime.now().strftime("%Y%m%d%H%M")[:-1]


def is_url(text: str) -> bool:
    """Whether it begins like an address of the web."""
    return re.match("https?://", text, re.IGNORECASE) is not None


def get_abs_path(path: str) -> str:
    """A path below the package `minigpt4`, whole."""
    return os.path.join(str(registry.get_path("library_root")), path)

"""Files on Google Drive, where MiniGPT-4's own checkpoints are published; the package gdown fetches them."""

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from minigpt4.common.errors import ConfigError
from minigpt4.weights.download import STAMP, beside, sha256_of
from minigpt4.weights.locations import RemoteFile

HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")
_ID = re.compile(r"[\w-]{10,}", re.ASCII)


def is_drive(url: str) -> bool:
    """Whether an address is Google Drive's, which answers with a web page and not with the file."""
    try:
        return urlsplit(url).hostname in HOSTS
    except ValueError:
        return False


@dataclass(frozen=True)
class DriveFile(RemoteFile):
    """A file on Google Drive: a `RemoteFile` whose URL is that of its page."""

    file_id: str

    @classmethod
    def parse(cls, value: str, key: str) -> "DriveFile":
        """Read `https://drive.google.com/file/d/ID/view`, `…/open?id=ID` or `…/uc?id=ID`.

        `#sha256=<64 hex digits>` may follow, as for any URL.

        Raises:
            ConfigError: for a folder, or an address without an id.
        """
        remote = RemoteFile.parse(value, key)
        parts = urlsplit(remote.url)
        in_path = re.search(r"/file/d/([^/]+)", parts.path)
        file_id = in_path[1] if in_path else parse_qs(parts.query).get("id", [""])[0]
        if not _ID.fullmatch(file_id):
            raise ConfigError(
                f"{key}: {value!r} does not name a file on Google Drive; the address of a file's page is "
                "https://drive.google.com/file/d/ID/view"
            )
        return cls(f"https://drive.google.com/file/d/{file_id}/view", remote.sha256, file_id)

    @property
    def name(self) -> str:
        """Drive tells the real name only while it is downloaded."""
        return f"{self.file_id}.pth"

    def download(self, place: Path, key: str) -> None:
        """Fetch the file to `place`, complete or not at all; a download that was cut is resumed.

        Raises:
            ConfigError: without gdown, if Drive refuses, or for another hash.
        """
        by_hand = f"download {self.url} in a browser, and set {key} to the file"
        try:
            import gdown
        except ImportError as error:
            raise ConfigError(
                f"{key}: files on Google Drive need gdown: pip install gdown, or pip install '.[data]'; "
                f"or {by_hand}"
            ) from error
        part = beside(place, ".part")
        try:
            gdown.download(id=self.file_id, output=str(part), quiet=False, resume=True)
        except Exception as error:  # quotas, permissions, the network: gdown and requests raise many kinds
            reason = str(error).strip() or type(error).__name__
            raise ConfigError(f"{key}: Google Drive refused {self.url} ({reason}): {by_hand}") from error
        if not part.is_file() or _is_page(part):
            part.unlink(missing_ok=True)
            raise ConfigError(f"{key}: Google Drive sent a web page instead of {self.url}: {by_hand}")
        if self.sha256:
            found = sha256_of(part)
            if not found.startswith(self.sha256):
                part.unlink()
                raise ConfigError(f"{key}: the SHA-256 of {self.url} is {found}, not {self.sha256}")
            beside(place, STAMP).write_text(found)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(place)


def _is_page(path: Path) -> bool:
    with contextlib.closing(path.open("rb")) as file:
        return file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))

"""How each kind of item is fetched: resumed, checked, and only then called done."""

import json
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit

from filelock import FileLock
from tqdm import tqdm

from minigpt4.common.errors import ConfigError, DataError, UserError, in_short
from minigpt4.common.files import inside
from minigpt4.common.logger import write_json
from minigpt4.common.web import open_url
from minigpt4.datasets.download.items import Item
from minigpt4.processors.pictures import MAX_FILE_BYTES
from minigpt4.weights.download import Download, beside, require_space

THREADS = 16
MAX_RATIO = 100  # unpacked to packed size of an archive; annotations in JSON reach 10 or 20
_KEY = re.compile(r"[\w-]+", re.ASCII)


class Store:
    """The folder of all items; its `.downloads` holds archives on their way, and notes on what is done."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / ".downloads"

    def status(self, item: Item) -> str:
        """`done`, `begun`, `by hand` or `missing`."""
        if self._note(item).is_file():
            return "done"
        if item.sources[0].startswith("by-hand:"):
            return "done" if any((self.root / item.folder).glob("*")) else "by hand"
        begun = (self._archive(item), beside(self._archive(item), ".part"), beside(self._file(item), ".part"))
        return "begun" if any(path.is_file() for path in begun) else "missing"

    def fetch_all(self, items: Iterable[Item]) -> list[UserError]:
        """Fetch items, one process at a time -> what went wrong; the others are fetched all the same."""
        problems = []
        self.state.mkdir(parents=True, exist_ok=True)
        with FileLock(self.state / ".lock"):
            for item in items:
                try:
                    self.fetch(item)
                except UserError as error:
                    problems.append(error)
        return problems

    def fetch(self, item: Item) -> None:
        """Fetch an item unless it is done.

        Raises:
            ConfigError: if it cannot be had, or what came is not what it should be.
        """
        if self.status(item) == "done":
            return
        (self.root / item.folder).mkdir(parents=True, exist_ok=True)
        try:
            note = self._fetch_any(item)
        except OSError as error:
            raise ConfigError(f"{item.name}: could not write to {self.root} ({in_short(error)})") from error
        write_json(self._note(item), note)

    def _fetch_any(self, item: Item) -> dict[str, Any]:
        kind, _, where = item.sources[0].partition(":")
        if kind in ("http", "https"):
            return self._fetch_url(item)
        if kind == "by-hand":
            raise ConfigError(f"{item.name}: {where}; put the pictures into {self.root / item.folder}")
        if kind == "pictures-of":
            return fetch_pictures(item.name, self.root / where, self.root / item.folder)
        return fetch_from_drive(item, where, self.root / item.folder)

    def _fetch_url(self, item: Item) -> dict[str, Any]:
        place = self._file(item) if item.file else self._archive(item)
        if not place.is_file():
            self._download(item, place)
        if item.file:
            check_json(item.name, place)
            return {"bytes": place.stat().st_size}
        files = unpack(item.name, place, self.root / item.folder, item.strip, item.only)
        place.unlink()
        return {"files": files}

    def _download(self, item: Item, place: Path) -> None:
        """From the first source that has it."""
        problems = []
        for url in item.sources:
            try:
                return Download(url, place, None, item.name).run()
            except ConfigError as error:
                problems.append(str(error).removesuffix("; a local path works too"))
        raise ConfigError(f"{'; '.join(problems)}; or put it at {place} yourself")

    def _note(self, item: Item) -> Path:
        return self.state / f"{item.name}.json"

    def _archive(self, item: Item) -> Path:
        return self.state / f"{item.name}.zip"

    def _file(self, item: Item) -> Path:
        return self.root / item.folder / (item.file or item.name)


def unpack(key: str, archive: Path, folder: Path, strip: str, only: str = "") -> int:
    """Unpack a zip of plain files below `folder`; files that exist in full size are kept.

    Args:
        key: the item, for messages.
        archive: the file; it is deleted if it is damaged, so that it is fetched again.
        folder: where the files go.
        strip: what their names begin with and shall not.
        only: files whose names do not begin so are left out.

    Returns:
        How many files there are.

    Raises:
        ConfigError: if it is damaged, has a name that leaves the folder, something other than files, more
            content than pictures and annotations can have, or there is no space.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = list(_members(zipped, folder, strip, only))
            missing = [(info, place) for info, place in members if not _is_there(place, info.file_size)]
            require_space(folder, sum(info.file_size for info, _ in missing), str(archive), key)
            for info, place in tqdm(missing, desc=key, unit="file", disable=None):
                place.parent.mkdir(parents=True, exist_ok=True)
                part = beside(place, ".part")
                with zipped.open(info) as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target)  # compares the CRC at the end
                part.replace(place)
    except ValueError as error:
        raise ConfigError(f"{key}: nothing was unpacked from {archive}: {in_short(error)}") from error
    # zipfile's words for an unknown compression and for a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        archive.unlink()
        raise ConfigError(
            f"{key}: {archive} is damaged ({error}) and deleted: run this again to fetch it again"
        ) from error
    return len(members)


def _members(
    zipped: zipfile.ZipFile, folder: Path, strip: str, only: str
) -> Iterator[tuple[zipfile.ZipInfo, Path]]:
    """The files of a zip, and where they go. Raises ValueError for what a data set does not contain."""
    packed, content = os.fstat(zipped.fp.fileno()).st_size, 0  # type: ignore[union-attr]
    for info in zipped.infolist():
        if info.is_dir() or not info.filename.startswith(only):
            continue
        name = info.filename.removeprefix(strip)
        place = _place(folder, name)
        mode = info.external_attr >> 16  # of Unix; 0 where another system packed it
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise ValueError(f"{name!r} is a link or a device, not a file")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name!r} is compressed by method {info.compress_type}, not stored or deflated")
        content += info.file_size
        yield info, place
    if content > MAX_RATIO * packed:
        raise ValueError(f"{packed:,} bytes unpack to {content:,}, too many for a data set")


def _place(folder: Path, name: str) -> Path:
    """The path of a file that an archive or a list names. Raises ValueError if the name is unsafe."""
    if "\\" in name or ":" in name:  # folders, drives and streams on Windows
        raise ValueError(f"{name!r} contains a backslash or a colon")
    return inside(folder, name)


def _is_there(place: Path, size: int) -> bool:
    return place.is_file() and place.stat().st_size == size


def check_json(key: str, path: Path) -> None:
    """Look at both ends of a JSON file, which may be large. If it is not JSON, delete it; ConfigError."""
    with path.open("rb") as file:
        head = file.read(100).lstrip()
        file.seek(max(0, path.stat().st_size - 100))
        tail = file.read().rstrip()
    if head[:1] + tail[-1:] not in (b"[]", b"{}"):
        path.unlink()
        raise ConfigError(f"{key}: {path.name} was downloaded, but is not JSON: it begins with {head[:30]!r}")


def fetch_from_drive(item: Item, drive_id: str, folder: Path) -> dict[str, Any]:
    """A file or a folder of Google Drive, by way of gdown. Raises ConfigError."""
    try:
        import gdown
    except ImportError as error:
        raise ConfigError(
            f"{item.name}: files on Google Drive need gdown: pip install gdown, or pip install '.[data]'"
        ) from error
    options = {"id": drive_id, "resume": True, "quiet": False}
    try:
        if item.file:
            gdown.download(output=str(folder / item.file), **options)
        else:
            gdown.download_folder(output=str(folder), **options)
    except Exception as error:
        # Quotas, permissions, the network: gdown and requests have many words for them.
        kind = "file/d" if item.file else "drive/folders"
        raise ConfigError(
            f"{item.name}: Google Drive gives nothing ({str(error).strip()}); https://drive.google.com/{kind}/"
            f"{drive_id} in a browser may, for {folder}"
        ) from error
    files = [folder / item.file] if item.file else sorted(folder.glob("*.json"))
    for file in files:
        check_json(item.name, file)
    return {"files": len(files)}


def fetch_pictures(key: str, listed: Path, folder: Path) -> dict[str, Any]:
    """The pictures that a list gives addresses of.

    Args:
        key: the item, for messages.
        listed: OCR-VQA's list, `KEY.jpg` for `{KEY: {"imageURL": ...}}`, or VSR's lines (`.jsonl`) with
            `image` and `image_link`.
        folder: where they go.

    Returns:
        How many are there, and which are gone for ever.

    Raises:
        ConfigError: without the list, or if servers could not be reached, after all others were fetched.
    """
    if not listed.is_file():
        raise ConfigError(f"{key}: {listed} is not there yet: fetch the item that holds it first")
    try:
        text = listed.read_text(encoding="utf-8")
        addresses = _of_lines(text) if listed.suffix == ".jsonl" else _of_covers(text)
        pictures = [(url, _place(folder, name)) for name, url in addresses.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{key}: {listed} is not a list of pictures: {in_short(error)}") from error
    missing = [(url, place) for url, place in pictures if not place.is_file()]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = pool.map(lambda picture: _fetch_picture(*picture), missing)
        answers = list(tqdm(answers, desc=key, total=len(missing), unit="picture", disable=None))
    unreached = answers.count("unreached")
    if unreached:
        raise ConfigError(
            f"{key}: {unreached:,} of {len(pictures):,} pictures could not be downloaded: run this again"
        )
    gone = [place.name for (_, place), answer in zip(missing, answers, strict=True) if answer == "gone"]
    return {"files": len(pictures) - len(gone), "gone": gone}


def _of_covers(text: str) -> dict[str, str]:
    """File name, as the data set looks for it -> address. Raises ValueError for an invalid one."""
    found = {}
    for name, entry in json.loads(text).items():
        if not _KEY.fullmatch(name):
            raise ValueError(f"{name!r} is not a name")
        url = _web_address(entry["imageURL"])
        found[name + (PurePosixPath(urlsplit(url).path).suffix or ".jpg")] = url
    return found


def _of_lines(text: str) -> dict[str, str]:
    entries = map(json.loads, filter(str.strip, text.splitlines()))
    return {entry["image"]: _web_address(entry["image_link"]) for entry in entries}


def _web_address(url: str) -> str:
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url!r} is not an address")
    return url


def _fetch_picture(url: str, place: Path) -> str:
    """`done`, `gone` (the server says so, or it is too large) or `unreached`."""
    try:
        with open_url(url) as answer:
            data = answer.read(MAX_FILE_BYTES)
            if answer.read(1):
                return "gone"  # training would not read a file as large as this
            if answer.length:
                return "unreached"  # the connection was cut
    except HTTPError as error:
        return "gone" if error.code in (403, 404, 410) else "unreached"
    except (OSError, HTTPException):
        return "unreached"
    part = beside(place, ".part")
    part.write_bytes(data)
    part.replace(place)
    return "done"

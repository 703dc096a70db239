"""One file from a URL: complete or not at all, and resumed where a connection broke."""

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import time
import urllib.error
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from urllib.parse import quote, urlsplit

from minigpt4.common.errors import ConfigError, one_line
from minigpt4.common.files import DISK_FULL
from minigpt4.common.web import SLOW_BYTES, open_url

log = logging.getLogger(__name__)

# Seconds before another attempt; that many attempts in a row may bring nothing new.
WAITS = (1.0, 2.0, 4.0)
CHUNK = 1 << 20
# `x.pth.sha256` holds the hash of `x.pth` after it was compared.
STAMP = ".sha256"
# Bytes after which a file whose length was not announced is given up: its server sends without end.
LARGEST_UNANNOUNCED = 1 << 36


class BrokenOffError(Exception):
    """A request brought nothing, or not everything; another one may continue from there."""


class TooSlowError(BrokenOffError):
    """The server sent nothing in time, or far too little."""


class HopelessError(BrokenOffError):
    """Another request would end in the same way."""


class Download:
    """A file on its way to `place`: `place.part` is what has arrived, `place.part.json` describes the whole.

    Args:
        url: the address.
        place: where the file goes once it is complete; its folder exists.
        sha256: what the file's SHA-256 must begin with, in hex; None if it is not known.
        key: the YAML key, for messages.
    """

    def __init__(self, url: str, place: Path, sha256: str | None, key: str) -> None:
        self.url, self.place, self.sha256, self.key = url, place, sha256, key
        self.shown = without_query(url)
        self.part, self.notes = beside(place, ".part"), beside(place, ".part.json")
        self.validator, self.total = self._read_notes()

    def _read_notes(self) -> tuple[str | None, int | None]:
        try:
            notes = json.loads(self.notes.read_text())
            validator, total = notes["validator"], notes["total"]
        except (OSError, ValueError, KeyError, TypeError):
            return None, None
        known = isinstance(validator, str | None) and isinstance(total, int | None)
        return (validator, total) if known else (None, None)

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def drop(self) -> None:
        """Delete what has arrived."""
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)
        self.validator = self.total = None

    def run(self) -> None:
        """Fetch what is missing, check it, and put it in its place.

        Raises:
            ConfigError: if it cannot be downloaded, has another hash, or there is no space for it.
            OSError: if the disk fails for another reason.
        """
        log.info("downloading %s to %s", self.shown, self.place)
        begun = furthest = self.size
        waits = iter(WAITS)
        while self.total is None or self.size != self.total:
            try:
                self._request()
                break
            except BrokenOffError as error:
                # A trickle before a timeout is not progress: the attempts would never end.
                if self.size > furthest + (SLOW_BYTES if isinstance(error, TooSlowError) else 0):
                    furthest, waits = self.size, iter(WAITS)
                wait = next(waits, None)
                if wait is None or (isinstance(error, HopelessError) and furthest == begun):
                    raise ConfigError(self._gave_up(error)) from error
                log.warning("%s: %s; trying again in %g s", self.shown, error, wait)
                time.sleep(wait)
        self._check_hash()
        self.part.replace(self.place)
        self.notes.unlink(missing_ok=True)

    def _gave_up(self, reason: Exception) -> str:
        if not self.size:
            return f"{self.key}: could not download {self.shown} ({reason}); a local path works too"
        of = "" if self.total is None else f" of {self.total:,}"
        return (
            f"{self.key}: {self.shown} stopped after {self.size:,}{of} bytes ({reason}); they are kept in "
            f"{self.part}, and the next run continues from there; a local path works too"
        )

    def _request(self) -> None:
        """Request what is missing, once; raise BrokenOffError unless everything arrives."""
        # Without a validator it is unknown whether the rest still belongs to what has arrived.
        start = self.size if self.validator else 0
        headers = {"Accept-Encoding": "identity"}
        if start and self.validator:
            headers |= {"Range": f"bytes={start}-", "If-Range": self.validator}
        with self._open(headers) as answer:
            if start and answer.status == 206:
                self._require_continuation(answer, start)
            else:
                start = 0
                self._begin(answer)
            if self.total is not None:
                require_space(self.place.parent, self.total - start, self.shown, self.key)
            self._receive(answer, start)
        if self.total is not None and self.size < self.total:
            raise BrokenOffError("the connection was cut")

    def _open(self, headers: dict[str, str]) -> HTTPResponse:
        # Spaces and non-ASCII letters are quoted as browsers do.
        try:
            return open_url(quote(self.url, safe="%/:=&?~+!$,;'@()*[]"), headers)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"the server answers {error.code} {one_line(error.reason)}"
            if error.code == 416:  # shorter than what has arrived: the file has changed
                self.drop()
            elif error.code < 500 and error.code not in (408, 429):
                raise HopelessError(reason) from error
            raise BrokenOffError(reason) from error
        except (OSError, HTTPException) as error:
            reason = one_line(getattr(error, "reason", error))
            raise (HopelessError if _lasts(error) else BrokenOffError)(reason) from error

    def _require_continuation(self, answer: HTTPResponse, start: int) -> None:
        """Delete what has arrived unless the answer continues it and belongs to the same file."""
        rest = f"bytes {start}-" if self.total is None else f"bytes {start}-{self.total - 1}/{self.total}"
        same = _validator(answer) in (None, self.validator)
        if not same or not answer.headers.get("Content-Range", "").startswith(rest):
            self.drop()
            raise BrokenOffError("the file has changed")

    def _begin(self, answer: HTTPResponse) -> None:
        """Start from nothing, with notes on what is about to arrive."""
        if answer.headers.get_content_type() == "text/html":
            raise ConfigError(
                f"{self.key}: {self.shown} is a web page, not a file: give the address of the download "
                "itself, or a local path"
            )
        length = answer.length  # None too if Content-Length is not a number
        # First the old bytes are deleted, then the old notes: notes never describe another file's bytes.
        self.part.write_bytes(b"")
        self.validator, self.total = _validator(answer), length
        self.notes.write_text(json.dumps({"validator": self.validator, "total": self.total}))

    def _receive(self, answer: HTTPResponse, start: int) -> None:
        from tqdm import tqdm

        bar = tqdm(
            desc=self.place.name, total=self.total, initial=start, unit="B", unit_scale=True, disable=None
        )
        arrived, most = start, LARGEST_UNANNOUNCED if self.total is None else self.total
        try:
            with bar, self.part.open("ab") as file:
                while arrived <= most and (chunk := _read(answer)):
                    file.write(chunk)
                    bar.update(len(chunk))
                    arrived += len(chunk)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            needed = None if self.total is None else self.total - self.size
            raise no_space(self.place.parent, needed, self.shown, self.key) from error
        if arrived > most:
            self.drop()
            raise HopelessError(f"the server sends more than {most:,} bytes, and does not stop")

    def _check_hash(self) -> None:
        if not self.sha256:
            return
        found = sha256_of(self.part)
        if not found.startswith(self.sha256):
            self.drop()
            raise ConfigError(
                f"{self.key}: the SHA-256 of {self.shown} is {found}, not {self.sha256}: the download was "
                "deleted"
            )
        beside(self.place, STAMP).write_text(found)


def _validator(answer: HTTPResponse) -> str | None:
    """What identifies this version of a file, byte by byte (a weak ETag does not)."""
    etag = answer.headers.get("ETag", "")
    return etag if etag.startswith('"') else answer.headers.get("Last-Modified")


def _lasts(error: Exception) -> bool:
    """Whether trying again cannot help: a bad address, a refused connection, no network."""
    reason = getattr(error, "reason", error)
    cause = reason if isinstance(reason, Exception) else error.__cause__
    lasting = (
        ConnectionRefusedError,
        socket.gaierror,
        ValueError,
        InvalidURL,
    )  # ValueError: certificates too
    unreachable = (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return (
        isinstance(cause, lasting)
        or getattr(cause, "errno", None) in unreachable
        or str(reason).startswith("unknown url type")  # where a redirect leads to
    )


def _read(answer: HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except TimeoutError as error:
        raise TooSlowError(str(error)) from error
    except (OSError, HTTPException) as error:
        raise BrokenOffError(str(error) or type(error).__name__) from error


def without_query(url: str) -> str:
    """An address for messages, without what must stay secret: a password, the query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" + ("?…" if parts.query else "")


def beside(path: Path, ending: str) -> Path:
    """The path of a file that goes with `path`."""
    return path.with_name(path.name + ending)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def require_space(folder: Path, needed: int, what: str, key: str) -> None:
    """Raise ConfigError unless `needed` bytes are free where `folder` is or will be."""
    if needed > _free(folder):
        raise no_space(folder, needed, what, key)


def no_space(folder: Path, needed: int | None, what: str, key: str) -> ConfigError:
    """The error that says how much space is needed, and how much there is."""
    amount = "more bytes" if needed is None else f"{needed:,} bytes"
    return ConfigError(f"{key}: no space for {what}: {amount} needed in {folder}, {_free(folder):,} are free")


def _free(folder: Path) -> int:
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free

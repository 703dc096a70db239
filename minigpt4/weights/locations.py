"""Where weights can be: on the disk, or at a URL with a place in torch hub's cache."""

import contextlib
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import torch
from filelock import FileLock

from minigpt4.common.errors import ConfigError
from minigpt4.common.files import check_inside
from minigpt4.weights.download import STAMP, Download, beside, sha256_of, without_query

_BLIP2 = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
EVA_CLIP_G_URL = _BLIP2 + "eva_vit_g.pth"
BLIP2_URL = _BLIP2 + "blip2_pretrained_flant5xxl.pth"
# The original MiniGPT-4 keeps these directly in torch hub's folder: found there, and put there.
PUBLISHED = (EVA_CLIP_G_URL, BLIP2_URL)

# As torch hub names its files, `resnet18-f37072fd.pth`: the beginning of the SHA-256. Decimal digits alone
# are rather a date or a number of steps.
_HASH_IN_NAME = re.compile(r"-(?!\d+\.)([0-9a-f]{8,64})\.")

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".gguf", ".ckpt")
# In the order in which transformers looks for them; an index names the shards.
MODEL_WEIGHTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# What `org/name` means where a single file of tensors is wanted.
TENSOR_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Location:
    """Where weights are, as far as that is known without network access.

    Attributes:
        path: file or folder; None where that is only known after the download.
        present: whether it is complete.
        lacks: what is missing from an incomplete folder.
    """

    path: Path | None
    present: bool
    lacks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        if self.path is None or not self.path.exists():
            return 0
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True)
class LocalPath:
    """A file or folder that is there."""

    path: Path

    def locate(self) -> Location:
        return Location(self.path, present=True)

    def fetch(self, key: str) -> Path:
        return self.path


@dataclass(frozen=True)
class RemoteFile:
    """A file at a URL.

    Attributes:
        url: the address, without fragment.
        sha256: what the file's SHA-256 must begin with; None if it is not known.
    """

    url: str
    sha256: str | None

    @classmethod
    def parse(cls, value: str, key: str) -> "RemoteFile":
        """Read `https://host/file.pth` or `https://host/file.pth#sha256=<64 hex digits>`.

        Raises:
            ConfigError: for another fragment, no host, a password in the address, or one that is malformed.
        """
        try:
            url, fragment = urldefrag(value)
            parts = urlsplit(url)
            _ = parts.port  # raises for an invalid port
        except ValueError as error:
            raise ConfigError(f"{key}: the address {without_query(value)} is malformed ({error})") from error
        if not parts.hostname or "@" in parts.netloc:
            raise ConfigError(f"{key}: a URL needs a host, without a user name or password")
        given = re.fullmatch(r"sha256=([0-9a-f]{64})", fragment.lower())
        if fragment and not given:
            raise ConfigError(f"{key}: the part after # is {fragment!r}, it must be sha256=<64 hex digits>")
        known = given or _HASH_IN_NAME.search(parts.path.rsplit("/", 1)[-1])
        return cls(url, known[1] if known else None)

    @property
    def name(self) -> str:
        """The last part of the address, as a file name that any system takes."""
        name = unquote(urlsplit(self.url).path).rsplit("/", 1)[-1]
        return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[-120:].strip(".") or "file"

    @property
    def place(self) -> Path:
        """Where it is once it is complete: below torch hub's folder, apart from other URLs' files."""
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        if self.url in PUBLISHED:
            return folder / self.name
        host = re.sub(r"[^\w.-]", "_", urlsplit(self.url).netloc, flags=re.ASCII)[:100]
        return folder / f"{host}-{hashlib.sha256(self.url.encode()).hexdigest()[:12]}" / self.name

    def locate(self) -> Location:
        return Location(self.place, self.place.is_file())

    def fetch(self, key: str) -> Path:
        """Return the file's place, after a download if it is not there.

        Of several processes that ask at once, one downloads and the others wait for it.

        Raises:
            ConfigError: if it cannot be downloaded, has another hash, or there is no space for it.
        """
        place = self.place
        try:
            if not place.is_file():
                place.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(beside(place, ".lock")):
                    if not place.is_file():
                        self.download(place, key)
            if self.sha256:
                self._check_cached(self.sha256, key)
        except OSError as error:
            raise ConfigError(
                f"{key}: could not keep {without_query(self.url)} in {place} ({error})"
            ) from error
        return place

    def download(self, place: Path, key: str) -> None:
        """Fetch the file to `place`, complete or not at all; what `fetch` raises."""
        Download(self.url, place, self.sha256, key).run()

    def _check_cached(self, sha256: str, key: str) -> None:
        """Compare the hash of a file that was already there; once, since large files take seconds."""
        stamp = beside(self.place, STAMP)
        if stamp.is_file() and stamp.read_text().startswith(sha256):
            return
        found = sha256_of(self.place)
        if not found.startswith(sha256):
            raise ConfigError(
                f"{key}: the SHA-256 of {self.place} is {found}, not {sha256}: delete that file to "
                f"download it again from {without_query(self.url)}, or correct the hash"
            )
        with contextlib.suppress(OSError):  # others' cache may be read-only
            stamp.write_text(found)


def model_weights(folder: Path, names: Collection[str]) -> list[str]:
    """The files that transformers would load a language model's weights from.

    Args:
        folder: holds the index, if there is one.
        names: the files that exist, locally or on the hub.

    Returns:
        One file, or all shards, or nothing if there is neither. For an index that cannot be read, a
        description of it, which is not the name of a file.
    """
    name = next((name for name in MODEL_WEIGHTS if name in names), None)
    if name is None or not name.endswith(".json"):
        return [name] if name else []
    try:
        index = json.loads((folder / name).read_text(encoding="utf-8"))
        shards = sorted(set(index["weight_map"].values()))
        for shard in shards:
            check_inside(shard)
        return shards
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"a readable {name}"]


def missing_from_model(folder: Path) -> tuple[str, ...]:
    """What a language model's folder lacks: its config, its weights or a shard of them."""
    needed = ["config.json", *model_weights(folder, {path.name for path in folder.iterdir()})]
    missing = [name for name in needed if not (folder / name).is_file()]
    return tuple(missing if len(needed) > 1 else [*missing, MODEL_WEIGHTS[0]])

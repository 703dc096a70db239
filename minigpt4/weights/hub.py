"""Weights on the Hugging Face hub: from its cache on this disk where they are complete, else downloaded.

Importing this takes half a second; only weights on the hub need it.
"""

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # httpx's, or its successor's
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from minigpt4.common.errors import ConfigError, nearest
from minigpt4.common.files import DISK_FULL
from minigpt4.weights.download import no_space, require_space
from minigpt4.weights.locations import WEIGHT_SUFFIXES, Location, missing_from_model, model_weights

# Config, tokenizer, chat template and the like; no code.
SMALL_FILES = (".json", ".model", ".txt", ".jinja", ".tiktoken")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model", "tekken.json"),
)

TOKEN_FILE = Path("hf_token.txt")
# `hf_put_your_own_read_token_here`, `<token>`, `hf_xxxxxxxx`, a sentence, other letters than ASCII's.
_NO_TOKEN = re.compile(r"_your_|<|[^!-~]|x{8}")


@dataclass(frozen=True)
class HubFile:
    """One file of a repository.

    Attributes:
        repo: `org/name`.
        names: paths inside it; the first that exists is meant.
    """

    repo: str
    names: tuple[str, ...]

    def locate(self) -> Location:
        folder = _cached_folder(self.repo)
        paths = [folder / name for name in self.names] if folder else []
        found = next((path for path in paths if path.is_file()), None)
        return Location(found, present=found is not None)

    def fetch(self, key: str) -> Path:
        """Return the file's place in the hub's cache, after a download if it is not there.

        Raises:
            ConfigError: if it cannot be downloaded, or there is no space for it.
        """
        cached = self.locate().path
        if cached:
            return cached
        with _explained(self.repo, key):
            sizes = _list_files(self.repo)
            name = next((name for name in self.names if name in sizes), None)
            if name is None:
                raise ConfigError(f"{key}: {self.repo} has no {self.names[0]}{self._hint(sizes)}")
            _require_space(sizes, [name], self.repo, key)
            return Path(hf_hub_download(self.repo, name, token=_token()))

    def _hint(self, sizes: Iterable[str]) -> str:
        files = sorted(name for name in sizes if name.endswith(WEIGHT_SUFFIXES))
        return nearest(self.names[0], files) or _offer(self.repo, files)


@dataclass(frozen=True)
class HubModel:
    """A language model: a repository's config, tokenizer and weights."""

    repo: str

    def locate(self) -> Location:
        folder = _cached_folder(self.repo)
        if folder is None:
            return Location(None, present=False)
        lacks = missing_from_model(folder)
        if not any((folder / name).is_file() for name in TOKENIZER_FILES):
            lacks = (*lacks, TOKENIZER_FILES[0])
        return Location(folder, present=not lacks, lacks=lacks)

    def fetch(self, key: str) -> Path:
        """Return the folder in the hub's cache, after a download of what it lacks.

        Raises:
            ConfigError: if it cannot be downloaded, is not a language model, or there is no space for it.
        """
        location = self.locate()
        if location.present and location.path:
            return location.path
        with _explained(self.repo, key):
            sizes = _list_files(self.repo)
            # The weights come last: where they are, the small files are too, wherever a download stopped.
            small = [name for name in sizes if "/" not in name and name.endswith(SMALL_FILES)]
            folder = self._download(small)
            weights = model_weights(folder, sizes)
            if not weights:
                offer = _offer(self.repo, sorted(name for name in sizes if name.endswith(".gguf")))
                raise ConfigError(f"{key}: {self.repo} has no weights that transformers can load{offer}")
            _require_space(sizes, [name for name in weights if not (folder / name).is_file()], self.repo, key)
            self._download([name for name in weights if name in sizes])  # an index may name patterns
        lacks = self.locate().lacks
        if lacks:
            raise ConfigError(
                f"{key}: {self.repo} is not a complete language model: {folder} lacks {', '.join(lacks)}"
            )
        return folder

    def _download(self, names: list[str]) -> Path:
        return Path(snapshot_download(self.repo, allow_patterns=names, token=_token()))


def require_new_repo(repo: str, key: str) -> None:
    """Check, before hours of work, that `push` will be able to.

    Raises:
        ConfigError: without a login, or if there is such a repository already.
    """
    with _explained(repo, key):
        api = HfApi(token=_token())
        try:
            api.whoami()
        except LocalTokenNotFoundError as error:
            raise ConfigError(
                f"{key}: put a token that may write in {TOKEN_FILE}, or set HF_TOKEN"
            ) from error
        if api.repo_exists(repo):
            raise ConfigError(f"{key}: {repo} is on the hub already: please name a new repository")


def push(folder: Path, repo: str, key: str) -> str:
    """Upload a folder as a new private repository, and return its address.

    Private, because whoever publishes it has to look at the licences of its parts first.

    Raises:
        ConfigError: if that fails.
    """
    with _explained(repo, key):
        api = HfApi(token=_token())
        address = api.create_repo(repo, private=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Export of minigpt4")
    return str(address)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE=1 (or TRANSFORMERS_OFFLINE=1) forbids all requests."""
    return constants.HF_HUB_OFFLINE


def _cached_folder(repo: str) -> Path | None:
    """The snapshot in the hub's cache that its branch `main` points to, complete or not."""
    try:
        # No pattern: we check completeness ourselves, because not every file is needed.
        return Path(snapshot_download(repo, local_files_only=True, allow_patterns=[]))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _list_files(repo: str) -> dict[str, int]:
    """Path -> bytes, of all files that the repository has on the hub."""
    info = HfApi(token=_token()).model_info(repo, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _token() -> str | None:
    """The first line of hf_token.txt that is a token; None leaves it to HF_TOKEN and the hub's own login."""
    if not TOKEN_FILE.is_file():
        return None
    content = TOKEN_FILE.read_bytes()
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # as PowerShell writes
    text = content.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
    lines = (line.strip() for line in text.splitlines())
    first = next((line for line in lines if line and not line.startswith("#")), "")
    return None if not first or _NO_TOKEN.search(first) else first


def _token_source() -> str:
    if _token():
        return str(TOKEN_FILE)
    return "HF_TOKEN" if os.environ.get("HF_TOKEN") else "the hub's own login"


def _offer(repo: str, files: list[str]) -> str:
    """How to name a file of the repository that may have been meant."""
    return f"; it has {', '.join(files[:5])}: write {repo}/{files[0]}" if files else ""


def _require_space(sizes: dict[str, int], names: Iterable[str], repo: str, key: str) -> None:
    require_space(Path(constants.HF_HUB_CACHE), sum(sizes.get(name, 0) for name in names), repo, key)


@contextmanager
def _explained(repo: str, key: str) -> Iterator[None]:
    """Turn what the hub's library raises into one line that says what to do."""
    try:
        yield
    except GatedRepoError as error:
        raise ConfigError(
            f"{key}: {repo} is gated: ask for access at https://huggingface.co/{repo} and put your token in "
            f"{TOKEN_FILE} (tried with the token of {_token_source()}, if there is one)"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ConfigError(
            f"{key}: no local file or folder {repo!r}, and no such repository on the hub: it is "
            "misspelt, or private and not visible to your token"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ConfigError(_unreachable(repo, key, error.__cause__ or error)) from error
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise ConfigError(
                f"{key}: the hub refuses the token of {_token_source()}: make another one at "
                "https://huggingface.co/settings/tokens"
            ) from error
        raise ConfigError(_unreachable(repo, key, error)) from error
    except (OSError, HTTPError) as error:
        if getattr(error, "errno", None) in DISK_FULL:
            raise no_space(Path(constants.HF_HUB_CACHE), None, repo, key) from error
        raise ConfigError(_unreachable(repo, key, error)) from error


def _unreachable(repo: str, key: str, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{key}: could not download {repo} from {constants.ENDPOINT} ({reason}); a local path works too"

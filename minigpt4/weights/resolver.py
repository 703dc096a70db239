"""Where weights come from: one resolver for every key of the YAML that names a file or a model.

A value is a local path, `pkg://module/file` (inside an installed Python package), a URL (of a file on Google
Drive too), or on the Hugging Face hub `org/name` or `org/name/path/in/repo.pth`. What is on the disk or in a
cache is not requested again.
"""

import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import load_file

from minigpt4.common.errors import CheckpointError, ConfigError, reading
from minigpt4.common.files import expanded, nearest_path
from minigpt4.weights.download import without_query
from minigpt4.weights.drive import DriveFile, is_drive
from minigpt4.weights.locations import (
    TENSOR_FILES,
    WEIGHT_SUFFIXES,
    LocalPath,
    Location,
    RemoteFile,
    missing_from_model,
)
from minigpt4.weights.paths import inside_package, require_value

if TYPE_CHECKING:
    from minigpt4.weights.hub import HubFile, HubModel

# Keys, folders and files of runs: such a path is never taken for a repository on the hub.
LOCAL_KEYS = ("run.resume_ckpt_path",)
LOCAL_FOLDERS = (
    *("output", "outputs", "weight", "weights", "ckpt", "ckpts", "checkpoint", "checkpoints"),
    *("model", "models", "run", "runs", "result", "results"),
)
RUNS_FILE = re.compile(r"checkpoint_(latest|step_\d+)\.pth")
# `google/gemma-2b-it`, optionally followed by a path inside the repository.
_HUB_PATH = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:/(.+))?", re.ASCII)


@dataclass(frozen=True)
class WeightSource:
    """Where a config takes weights from.

    Attributes:
        key: the YAML key, for messages, e.g. `model.llama_model`.
        value: its value.
        kind: one file of tensors, or a language model (with its config and tokenizer).
    """

    key: str
    value: str | None
    kind: Literal["file", "model"]

    @property
    def shown(self) -> str:
        """The value for messages and tables."""
        value = str(self.value)
        return without_query(value) if _is_url(value) else value


def resolve_file(value: str | None, key: str) -> Path:
    """Return the path of one file of tensors, after a download if it is not on this disk.

    Args:
        value: a file, a URL, `pkg://module/file`, `org/name/path/in/repo.pth`, or a folder or `org/name` that
            holds `model.safetensors` or `pytorch_model.bin`.
        key: the YAML key, for messages.

    Raises:
        ConfigError: for a placeholder, or for what does not exist or cannot be downloaded.
    """
    return resolve_source(WeightSource(key, value, "file"))


def resolve_model(value: str | None, key: str) -> Path:
    """Return the folder or `.gguf` file of a language model, after a download if it is not on this disk.

    Args:
        value: a folder, `org/name`, or, local, at a URL, in a package or in a repository, a `.gguf` file.
        key: the YAML key, for messages.

    Raises:
        ConfigError: for a placeholder, or for what does not exist, is not a model or cannot be downloaded.
    """
    return resolve_source(WeightSource(key, value, "model"))


def resolve_source(source: WeightSource) -> Path:
    """Like `resolve_file` or `resolve_model`, depending on the source's kind."""
    place = _find_place(source)
    location = place.locate()
    if not location.present:
        from minigpt4.weights.hub import is_offline

        if is_offline():
            raise ConfigError(
                f"{source.key}: {source.shown} is not on this disk{_lacks(location.lacks)}, and "
                "HF_HUB_OFFLINE=1 forbids downloading it; a local path works too"
            )
    return place.fetch(source.key)


def locate(source: WeightSource) -> Location:
    """Where weights are, and whether they are complete; nothing is downloaded.

    Raises:
        ConfigError: for what a download cannot fix: a placeholder, a local path that does not exist.
    """
    return _find_place(source).locate()


def _find_place(source: WeightSource) -> "LocalPath | RemoteFile | HubFile | HubModel":
    """Where a value's weights are, judged by its form and by what is on this disk.

    What looks like a local path is never taken for a repository: the request would fail, with a misleading
    message.
    """
    value = require_value(source.value, source.key)
    if value.startswith("pkg://"):
        return _local(inside_package(value, source.key), source)
    if _is_url(value):
        remote = (DriveFile if is_drive(value) else RemoteFile).parse(value, source.key)
        _require_gguf(remote.name, source)
        return remote
    path = Path(expanded(value))
    try:
        if path.exists():
            return _local(path, source)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ConfigError(f"{source.key}: no file or folder {value[:100]!r} ({error.strerror})") from error
    on_hub = _HUB_PATH.fullmatch(value)
    is_file_name = path.suffix.lower() in WEIGHT_SUFFIXES
    if on_hub and is_file_name == bool(on_hub[2]) and not _is_of_a_run(path, source):
        return _on_hub(on_hub[1], on_hub[2], source)
    place = "" if str(path.absolute()) == value or "://" in value else f" (looked for {path.absolute()})"
    raise ConfigError(f"{source.key}: no file or folder {value!r}{place}{nearest_path(path)}")


def _is_of_a_run(path: Path, source: WeightSource) -> bool:
    """Whether a relative path that does not exist looks local, and not like a repository on the hub."""
    first = path.parts[0]
    ours = first in LOCAL_FOLDERS or source.key in LOCAL_KEYS or RUNS_FILE.fullmatch(path.name)
    return bool(ours) or Path(first).is_dir()


def _is_url(value: str) -> bool:
    return value.lower().startswith(("http://", "https://"))


def _local(path: Path, source: WeightSource) -> LocalPath:
    """Check that an existing path is of the source's kind."""
    if not path.is_dir():
        if not path.is_file():
            raise ConfigError(f"{source.key}: {path} is a device or a pipe, not a file")
        _require_gguf(path.name, source)
        return LocalPath(path)
    if source.kind == "model":
        lacks = missing_from_model(path)
        if lacks:
            raise ConfigError(
                f"{source.key}: the folder {path} is not a complete language model{_lacks(lacks)}"
            )
        return LocalPath(path)
    for name in TENSOR_FILES:
        if (path / name).is_file():
            return LocalPath(path / name)
    raise ConfigError(f"{source.key}: {path} is a folder; please name the file in it")


def _on_hub(repo: str, file: str | None, source: WeightSource) -> "HubFile | HubModel":
    from minigpt4.weights.hub import HubFile, HubModel

    if file is None:
        return HubModel(repo) if source.kind == "model" else HubFile(repo, TENSOR_FILES)
    if {"", ".", ".."} & set(re.split(r"[/\\]", file)):
        raise ConfigError(f"{source.key}: {source.value!r} leaves the repository {repo}")
    _require_gguf(file, source)
    return HubFile(repo, (file,))


def _require_gguf(name: str, source: WeightSource) -> None:
    if source.kind == "model" and not name.lower().endswith(".gguf"):
        raise ConfigError(
            f"{source.key}: {source.shown} is one file, but a language model is a folder, a repository on "
            "the hub, or a .gguf file"
        )


def _lacks(names: Sequence[str]) -> str:
    return f" (it lacks {', '.join(names)})" if names else ""


def read_tensors(path: str | Path, *, mapped: bool = False) -> dict:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file of tensors. Code in it is never run.

    Args:
        path: the file.
        mapped: the tensors may be views of the file, so that only what is copied out of them takes
            memory. (A `.pth` of torch before 1.6 is read whole all the same.)

    Raises:
        CheckpointError: if the file is absent, damaged, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    with reading(path, failed="{} is damaged or is not a file of tensors"):
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path, mapped)
        if not isinstance(content, dict):
            raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
        _require_plain(content, path, ())
    return content


def _unpickle(path: Path, mapped: bool) -> Any:
    try:
        mmap = mapped and zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        # torch's own message suggests running the code.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise CheckpointError(
                f"{path} is refused: it contains {foreign[1]}, which is code or an object, not a tensor"
            ) from error
        raise CheckpointError(f"{path} is damaged or is not a file of tensors") from error


def _require_plain(content: Any, path: Path, keys: tuple) -> None:
    """Raise CheckpointError if a file holds a tensor that is not a plain array of real numbers."""
    if torch.is_tensor(content):
        plain = content.layout is torch.strided and content.device.type == "cpu" and not content.is_complex()
        # The last: an expanded view of a few stored values, whose copy could take any amount of memory.
        if not plain or content.is_quantized or content.nbytes > content.untyped_storage().nbytes():
            where = ".".join(map(str, keys))
            kind = f"{content.layout}, {content.dtype}, {content.device}, {list(content.shape)}"
            raise CheckpointError(f"{path}: {where} is not a plain tensor of real numbers ({kind})")
    elif isinstance(content, (dict, list, tuple)):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            _require_plain(value, path, (*keys, key))

"""Where weights come from: one resolver for every key of the YAML that names a file or a model."""

import importlib.util
import pickle
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from minigpt4.common.errors import CheckpointError, ConfigError, nearest

WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".gguf", ".ckpt")
PLACEHOLDER = re.compile(r"^\s*$|please set this value|^/?path/to\b", re.IGNORECASE)


def require_value(value: str | None, key: str) -> str:
    """Return `value` unless it is empty or still the placeholder of a template.

    Raises:
        ConfigError: naming the YAML key.
    """
    if value is None or PLACEHOLDER.search(str(value)):
        raise ConfigError(f"{key} is {value!r}: please set it to a real path in the YAML or with --options")
    return str(value)


def resolve(value: str | None, key: str) -> Path | str:
    """Turn the value of a weight key into something loadable.

    Args:
        value: a local file or folder, `pkg://module/file` (a file inside an installed Python package), a
            URL, or the id of a model on the Hugging Face hub.
        key: the YAML key, for messages, e.g. `model.llama_model`.

    Returns:
        A path that exists, or the hub id as it was given.

    Raises:
        ConfigError: for a placeholder, or a path that does not exist.
    """
    value = require_value(value, key)
    if value.startswith("pkg://"):
        return _inside_package(value, key)
    if value.startswith(("http://", "https://")):
        return _download(value, key)
    path = Path(value).expanduser()
    if path.exists():
        return path
    if (
        re.fullmatch(r"[\w.-]+/[\w.-]+", value)
        and path.suffix not in WEIGHT_SUFFIXES
        and not path.parent.is_dir()
    ):
        return value  # `google/gemma-2b-it`
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise ConfigError(f"{key}: no file or folder {value!r}{nearest(path.name, siblings)}")


def _inside_package(value: str, key: str) -> Path:
    module, _, inner = value.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{key}: {value!r} wants the Python package {module!r}, which is not installed")
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / inner).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"{key}: {value!r} leaves the package {module!r}")
    if not path.exists():
        raise ConfigError(f"{key}: the installed package {module!r} holds no {inner!r}")
    return path


def _download(url: str, key: str) -> Path:
    """Fetch a URL once into torch's hub cache (written beside its place, then renamed)."""
    target = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(target))
        except OSError as error:
            raise ConfigError(f"{key}: could not download {url} ({error}); a local path works too") from error
    return target


def read_tensors(path: str | Path) -> dict:
    """Read a `.safetensors`, `.pth`, `.pt` or `.bin` file of tensors. Code in it is never run.

    Raises:
        CheckpointError: if the file is absent, damaged, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to run the code.
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it holds {foreign[1]}, code or an object" if foreign else "it is damaged or is"
        raise CheckpointError(f"{path} is refused: {reason}, no file of tensors") from error
    except Exception as error:
        # A pickle that is none makes the reader stumble in many ways.
        raise CheckpointError(
            f"{path} is damaged or is no file of tensors ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
    return content

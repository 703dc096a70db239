"""What a YAML key that names a path may say; torch is not imported for it."""

import importlib.util
import re
from pathlib import Path

from minigpt4.common.errors import ConfigError
from minigpt4.common.files import expanded, nearest_path

PLACEHOLDER = re.compile(r"^\s*$|please set this value|^/?path/to\b", re.IGNORECASE)


def require_value(value: str | None, key: str) -> str:
    """Return `value` unless it is empty or still the placeholder of a template.

    Raises:
        ConfigError: naming the YAML key.
    """
    if value is None or PLACEHOLDER.search(str(value)):
        raise ConfigError(f"{key} is {value!r}: please set it to a real path in the YAML or with --options")
    return str(value)


def resolve_path(value: str | None, key: str) -> Path:
    """A path of this machine, `~` being the home folder, or of a file in a package (`pkg://module/file`).

    Raises:
        ConfigError: for a placeholder, or a package or file in it that does not exist.
    """
    value = require_value(value, key)
    return inside_package(value, key) if value.startswith("pkg://") else Path(expanded(value))


def existing_file(value: str | None, key: str) -> Path:
    """As `resolve_path`, of a file that is there.

    Raises:
        ConfigError: if it is not.
    """
    file = resolve_path(value, key)
    if not file.is_file():
        raise ConfigError(f"{key}: no file {str(value)!r}{nearest_path(file)}")
    return file


def inside_package(value: str, key: str) -> Path:
    """The path that `pkg://module/file` means. Raises ConfigError if there is none."""
    module, _, inner = value.removeprefix("pkg://").partition("/")
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"{key}: {value!r} needs the Python package {module!r}, which is not installed")
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / inner).resolve()
    if not path.is_relative_to(root):
        raise ConfigError(f"{key}: {value!r} leaves the package {module!r}")
    if not path.exists():
        raise ConfigError(f"{key}: the installed package {module!r} has no {inner!r}")
    return path

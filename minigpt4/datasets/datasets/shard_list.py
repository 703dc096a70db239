"""From a YAML key or an argument to shards: patterns, folders, URLs, commands, manifests."""

import glob
import os
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import braceexpand

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.files import expanded, nearest_path
from minigpt4.datasets.datasets.manifest import read_manifest
from minigpt4.weights.paths import require_value

# Suffixes of shards in a folder.
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
SCHEMES = ("http", "https")
# No data set has more; a pattern that expands to more is a mistake, and would exhaust memory.
MAX_SHARDS, MAX_DEPTH = 1_000_000, 50

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):/")
_BRACES = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?\}|([{},])")


def is_remote(shard: str) -> bool:
    """Whether a shard is a URL or a `pipe:` command."""
    return shard.startswith("pipe:") or "://" in shard


def expand_shards(storage: str | list[str], key: str) -> list[str]:
    """Brace patterns, wildcards, folders, lists, URLs, `pipe:` commands and manifests -> shards, in order.

    Args:
        storage: e.g. `data/{00000..01255}.tar`, `data/*.tar`, `data`, or the .json file that
            minigpt4 check-shards writes.
        key: the YAML key or the argument, for messages.

    Raises:
        ConfigError: for a placeholder, nothing, unmatched braces, too many shards, or an unsupported URL.
        DataError: if no local shard exists, one is not a file, or a manifest is invalid.
    """
    patterns = storage if isinstance(storage, list) else [storage]
    try:
        names = [name for pattern in patterns or [None] for name in _expand(require_value(pattern, key), key)]
    except ValueError as error:
        raise ConfigError(f"{key} is {storage!r}: {error}") from error
    shards = [shard for name in names for shard in _found(name, key)]
    if not any(is_remote(shard) or _is_file(shard) for shard in shards):
        odd = [shard for shard in shards if os.path.exists(shard)]
        if odd:
            raise DataError(f"{key}: {odd[0]} is a pipe or a device, not a file or a folder")
        looked = f" (looked for {shards[0]} and {len(shards) - 1} more)" if shards else ""
        wrong = nearest_path(shards[0]) if shards else ""
        raise DataError(f"{key}: no shard matches {storage!r}{looked}{wrong}")
    return shards


def _expand(pattern: str, key: str) -> Iterable[str]:
    """Expand the braces of a pattern, or the manifest."""
    if pattern.startswith("pipe:"):
        return _braces(pattern)
    scheme = _SCHEME.match(pattern)
    if scheme and pattern.startswith("file:"):
        pattern = urlsplit(pattern).path
    elif scheme and "://" in pattern:
        if scheme[1].lower() not in SCHEMES:
            raise ConfigError(
                f"{key}: {pattern} cannot be read: please give a path, http(s)://..., or a command that "
                "writes the shard to its output, such as `pipe:aws s3 cp s3://... -`"
            )
        if not urlsplit(pattern).hostname or urlsplit(pattern).port == 0:  # or these raise ValueError
            raise ValueError(f"{pattern} names no server")
        return _braces(scheme[1].lower() + pattern[len(scheme[1]) :])
    if pattern.endswith(".json"):
        return read_manifest(pattern, key)
    return _braces(expanded(pattern))


def _braces(pattern: str) -> Iterable[str]:
    if _count(pattern) > MAX_SHARDS:
        raise ValueError(f"its braces expand to more than {MAX_SHARDS:,} shards")
    # No escapes: on Windows a backslash is part of the path.
    return braceexpand.braceexpand(pattern, escape=False)


def _count(pattern: str) -> int:
    """The number of names that a pattern expands to: groups multiply, their parts add up."""
    # For each open group: the names in its parts before the last comma, and in the part after it.
    groups = [[0, 1]]
    for first, last, step, sign in _BRACES.findall(pattern):
        if first:
            groups[-1][1] *= abs(int(last) - int(first)) // (abs(int(step or 1)) or 1) + 1
        elif sign == "{":
            groups.append([0, 1])
            if len(groups) > MAX_DEPTH:
                raise ValueError("its braces are nested too deeply")
        elif sign == "," and len(groups) > 1:
            groups[-1] = [sum(groups[-1]), 1]
        elif sign == "}" and len(groups) > 1:
            names = sum(groups.pop())
            groups[-1][1] *= names
    return groups[0][1]


def _found(name: str, key: str) -> list[str]:
    """The shards in a folder or of a wildcard; otherwise the name itself, whether it exists or not."""
    if is_remote(name):
        return [name]
    wild = glob.has_magic(name)
    if name.lower().endswith(SUFFIXES) and not wild:  # no access to a disk that may be slow
        return [name]
    if wild and not os.path.exists(name):
        files = [file for file in sorted(glob.glob(name, recursive=True)) if _is_file(file)]
    elif os.path.isdir(name):
        try:
            inside = sorted(os.listdir(name))
        except OSError as error:
            raise DataError(f"{key}: the folder {name} cannot be read: {error.strerror}") from error
        files = [os.path.join(name, file) for file in inside if not file.startswith(".")]
        return [file for file in files if file.lower().endswith(SUFFIXES)]
    else:
        return [name]
    return [file for file in files if file.lower().endswith(SUFFIXES)] or files


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # its name is too long
        return False

"""Which shards of a data set are worth reading: `{"shards": {"00000.tar": 9876, ...}}`, beside or above them.

The number is how many samples of a shard are good. Paths are relative to the manifest, so that a folder can
be moved, and they stay below it, because a manifest may come from strangers together with its shards.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from minigpt4.common.errors import ConfigError, DataError
from minigpt4.common.files import expanded, inside, nearest_path
from minigpt4.common.logger import write_json


def write_manifest(path: Path, samples: Mapping[str, int]) -> None:
    """Write a manifest, completely or not at all.

    Args:
        path: a .json file above all the shards.
        samples: shard -> good samples; shards without any are left out.

    Raises:
        ConfigError: as `path_in_manifest`.
    """
    shards = {path_in_manifest(path, shard): number for shard, number in samples.items() if number}
    write_json(path, {"samples": sum(shards.values()), "shards": shards})


def path_in_manifest(path: Path, shard: str) -> str:
    """The path by which a manifest at `path` names a shard.

    Raises:
        ConfigError: if the manifest has another suffix, or the shard is not below its folder.
    """
    if path.suffix != ".json":
        raise ConfigError(f"the manifest {path} must end in .json")
    folder, file = os.path.abspath(path.parent), os.path.abspath(shard)
    if "://" in shard or shard.startswith("pipe:") or not Path(file).is_relative_to(folder):
        raise ConfigError(f"{shard} is not below {folder}: a manifest lies beside its shards or above them")
    return Path(file).relative_to(folder).as_posix()


def read_manifest(path: str, key: str) -> list[str]:
    """The paths of a manifest's shards that have good samples.

    Args:
        path: the .json file.
        key: the YAML key that names it, for messages.

    Raises:
        DataError: if it is absent or not a manifest, lists nothing, or names a path outside its folder.
    """
    file = Path(expanded(path))
    if not file.is_file():
        raise DataError(f"{key}: the manifest {path} does not exist{nearest_path(file)}")
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["shards"]
        good = [str(inside(file.parent, name)) for name, samples in shards.items() if samples > 0]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{key}: {path} is not a manifest as minigpt4 check-shards writes it: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not good:
        raise DataError(f"{key}: {path} lists no shard with good samples")
    return good
